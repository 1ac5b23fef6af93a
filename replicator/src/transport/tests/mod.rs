//! Whole transports on loopback.
