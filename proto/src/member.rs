//! What a member's kind means to whoever counts copies.

use crate::v1::{MemberKind, MemberStatus};

impl MemberStatus {
    /// Has, or is to have, a copy of the volume.
    pub fn holds_copy(&self) -> bool {
        !matches!(self.kind(), MemberKind::Witness | MemberKind::Diskless)
    }
}
