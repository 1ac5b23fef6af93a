//! The model.

pub mod bug;
pub mod encode;
pub mod explore;
pub mod layout;
pub mod log;
pub mod model;
pub mod state;
pub mod step;
pub mod terms;

mod append;
mod change;
mod damage;
mod force;
mod promote;
mod property;
