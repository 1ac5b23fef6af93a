//! The note that a journal's disk failed.

use note::Said;

#[path = "../../replicator/src/journal/burnt_note.rs"]
mod note;

const JOURNAL: u128 = 0x77;

pub fn notes(data: &[u8]) {
    if let Said::Ours(reason) = note::read(JOURNAL, data) {
        let again = note::read(JOURNAL, note::write(JOURNAL, &reason).as_bytes());
        assert!(matches!(again, Said::Ours(_)));
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    [JOURNAL, 1].iter().map(|journal| note::write(*journal, "a sync failed").into_bytes()).collect()
}
