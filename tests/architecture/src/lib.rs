//! The rules of the house as checks over the sources.
//!
//! Every rule is a function from sources to complaints, so that its own tests can feed it a bad snippet. The test
//! `house` runs them over the repository. What a rule allows stands in a table at the top of its file: changing a table
//! is how one argues for an exception.

pub mod changelog;
pub mod hosts;
pub mod imports;
pub mod manifests;
pub mod scrub;
pub mod shape;
pub mod sources;
pub mod unsafety;
