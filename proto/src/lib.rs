//! The wire format: protobuf messages and gRPC services (package `regatta.v1`) and their conversions to the domain.
//!
//! The code in [`pb`] is generated from `proto/regatta/v1/*.proto` and committed, so a build needs no protobuf
//! compiler; `tests/generated.rs` fails when the two differ. Only [`convert`] names wire and domain types together.

pub mod convert;
pub mod frame;

/// Version of the session between agent and coordinator. A peer of another version is told which side to upgrade.
pub const PROTOCOL: u32 = 3;

/// The largest message either side accepts, in bytes.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// The services and messages as protobuf describes them (a `FileDescriptorSet`), for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/regatta.v1.bin");

/// Generated messages and services.
#[rustfmt::skip]
#[expect(missing_docs, clippy::allow_attributes, clippy::large_enum_variant, clippy::pedantic, reason = "generated code")]
pub mod pb {
    include!("gen/regatta.v1.rs");
}
