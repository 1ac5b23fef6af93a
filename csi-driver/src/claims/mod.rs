//! Under Kubernetes: the claim that a volume was made for is known in every site, and where the volume has moved to, its
//! PersistentVolume appears. Everything that asks an API server is here.

mod decide;
mod following;
mod identity;
mod kubernetes;
mod objects;

pub use following::{follow, settle};
pub use identity::labels;
pub use kubernetes::{Kubernetes, KubernetesError};
