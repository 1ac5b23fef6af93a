//! A conversation between replicators, kept: what this version said, every later one must understand.

mod kept;
mod line;
pub(super) mod stage;
pub(super) mod story;
