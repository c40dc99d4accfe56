//! Real builds: layers out of the real archives, run and compared, and what happens when archives and lock disagree.
//! Needs the network when the cache is empty.

mod image;
mod layers;
mod locking;
mod support;
