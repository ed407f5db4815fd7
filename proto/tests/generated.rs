//! The committed code in `src/gen` is what the `.proto` files generate. After a change of a `.proto` file run
//! `REGATTA_UPDATE=1 cargo test -p regatta-proto --test generated` and commit both.

use std::path::Path;

use prost::Message;

const FILES: [&str; 5] = [
    "regatta/v1/types.proto",
    "regatta/v1/worker.proto",
    "regatta/v1/agent.proto",
    "regatta/v1/run.proto",
    "regatta/v1/artifact.proto",
];

#[test]
fn committed_code_is_what_the_proto_files_generate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(FILES, [root.join("proto")]).unwrap();
    let mut plain = descriptors.clone();
    // Comments are for readers of the files.
    plain.file.iter_mut().for_each(|file| file.source_code_info = None);
    let description = plain.encode_to_vec();
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .out_dir(out.path())
        .btree_map(".")
        .build_transport(false)
        .compile_fds(descriptors)
        .unwrap();
    let generated = std::fs::read_to_string(out.path().join("regatta.v1.rs")).unwrap();
    let committed = root.join("src/gen/regatta.v1.rs");
    let described = root.join("src/gen/regatta.v1.bin");
    if std::env::var_os("REGATTA_UPDATE").is_some() {
        std::fs::write(&committed, generated).unwrap();
        std::fs::write(&described, description).unwrap();
        return;
    }
    let same = std::fs::read(&described).is_ok_and(|bytes| bytes == description);
    assert!(same, "src/gen/regatta.v1.bin is out of date: run REGATTA_UPDATE=1 cargo test -p regatta-proto");
    let same = std::fs::read_to_string(&committed).is_ok_and(|text| text == generated);
    assert!(same, "src/gen/regatta.v1.rs is out of date: run REGATTA_UPDATE=1 cargo test -p regatta-proto");
}
