//! Connection ids, and the key of stateless resets.
//!
//! The key is derived from the node's private key. A restarted process therefore answers packets of its predecessor's
//! connections with resets that the peers believe, and they dial anew at once instead of after the idle timeout.

use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};

const MAC_BYTES: usize = 32;
const CONNECTION_ID_BYTES: usize = 8;

pub(super) struct ResetKey(pub [u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        MAC_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // blake3's comparison takes the same time whatever differs.
        let expected = blake3::keyed_hash(&self.0, data);
        match <[u8; MAC_BYTES]>::try_from(signature) {
            Ok(signature) if expected == blake3::Hash::from_bytes(signature) => Ok(()),
            _ => Err(CryptoError),
        }
    }
}

/// Random ids. quinn's own are keyed anew by every process, and packets for an unknown id would be dropped in silence
/// where a reset is wanted.
pub(super) struct RandomConnectionIds;

impl ConnectionIdGenerator for RandomConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&super::node::random_u128().to_le_bytes()[..CONNECTION_ID_BYTES])
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_verifies_and_another_does_not() {
        let key = ResetKey([7; 32]);
        let mut signature = [0; MAC_BYTES];
        key.sign(b"data", &mut signature);
        assert!(key.verify(b"data", &signature).is_ok());
        assert!(key.verify(b"dato", &signature).is_err());
        assert!(key.verify(b"data", &signature[1..]).is_err());
        assert!(ResetKey([8; 32]).verify(b"data", &signature).is_err());
    }
}
