//! Regatta's reports.
//!
//! One way through: [`dataset`] (what was recorded) → [`stats`] (recomputed from raw samples) → [`view`] (exactly what
//! is shown, as plain structs) → [`chart`] (SVG and PNG), the page ([`html`]) and exports. Everything between
//! [`load`] and [`render`] is pure.

pub mod chart;
pub mod compare;
pub mod dataset;
pub mod error;
mod export;
pub mod html;
pub mod llama_bench;
mod load;
pub mod nights;
pub mod roofline;
pub mod stats;
pub mod text;
pub mod view;
mod write;

pub use self::dataset::Dataset;
pub use self::error::{ReportError, Result};
pub use self::export::Format;
pub use self::load::{load, load_for_page, load_imports};
pub use self::write::{Picture, ReportOptions, Written, export, pictures, render, render_live, render_served};
