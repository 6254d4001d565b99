//! From input files in the field's formats to sets of cells.

pub mod bulk;
pub mod controls;
pub mod draws;
pub mod effects;
pub mod features;
pub(crate) mod gzip;
pub mod h5ad;
mod in_order;
pub(crate) mod labels;
pub mod loader;
pub mod normalise;
pub mod observe;
#[cfg_attr(not(feature = "parquet"), path = "data/parquet/absent.rs")]
mod parquet;
pub mod population;
pub mod preprocess;
pub mod sampler;
pub mod scale;
pub mod shard;
pub mod simulate;
pub mod split;
pub(crate) mod table;
