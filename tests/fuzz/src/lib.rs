//! What several fuzz targets hold their results against.

pub mod line;
pub mod memory;
pub mod names;
