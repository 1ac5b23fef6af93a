//! A conversation between replicators, kept: what this version said, every later one must understand.

mod kept;
mod line;
mod stage;
mod story;
