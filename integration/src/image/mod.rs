//! Partition images of the demo's releases, packed from the program files of the machine it runs on.
//! It reads those files only, and writes only where it is told.
//!
//! An image is a plain archive whose first entry is `etc/os-release`. Version 2 of it is what an
//! upgrade looks like: most files stay, some are rebuilt, some are new, some are gone.

mod pack;
mod ustar;

pub use pack::{HostFiles, ImageError, Marker, PackSpec, os_release_of, pack};
pub use ustar::{UstarWriter, first_entry};
