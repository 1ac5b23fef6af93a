//! What happens in the stories, by what it is about.

pub mod changes;
pub mod cuts;
pub mod diskless;
pub mod disks;
pub mod distances;
pub mod epochs;
pub mod forces;
pub mod places;
pub mod reads;
