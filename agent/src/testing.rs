//! Trials and samples for tests.

use std::sync::Arc;
use std::time::Duration;

use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::cell::CellHash;
use regatta_core::device::DeviceId;
use regatta_core::digest::Digest;
use regatta_core::policy::{Policy, Warmup};
use regatta_core::trial::{Epoch, Trial, TrialCell};
use regatta_core::workload::{Kind, Prompt, Workload};
use regatta_proto::pb;

/// Makes a program out of a shell script.
///
/// Another process writes the file: a child that a test beside this one is just starting would hold a copy of our open
/// file, and a program that is open for writing can't be run.
#[cfg(unix)]
pub(crate) fn program(path: &std::path::Path, script: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let write = "cat > \"$0\" && chmod 755 \"$0\"";
    let mut child = Command::new("/bin/sh").args(["-c", write]).arg(path).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Cells with workloads of these names, two tokens to generate.
pub(crate) fn cells(names: &[&str]) -> Vec<TrialCell> {
    let cell = |(index, name): (usize, &&str)| TrialCell {
        build: None,
        hash: CellHash(Digest::of(format!("{index} {name}").as_bytes())),
        workload: Arc::new(Workload {
            kind: Kind::Generate,
            name: name.parse().unwrap(),
            prompt: Prompt::Seeded { seed: 1, tokens: 4 },
            generate: 2,
            batch: 1,
            replicas: 1,
        }),
    };
    names.iter().enumerate().map(cell).collect()
}

/// A trial of the fake backend.
pub(crate) fn trial(id: &str, names: &[&str], repetitions: u32) -> Trial {
    let warmup = Warmup {
        min_repetitions: 1,
        max_repetitions: 1,
        min_time: Duration::ZERO,
        max_time: Duration::from_secs(1),
        stable_within: 0.5,
    };
    Trial {
        id: id.parse().unwrap(),
        run: "run".parse().unwrap(),
        agent: "here".parse().unwrap(),
        device: DeviceId::CPU,
        backend: BackendKind::Fake,
        artifact: ArtifactRef {
            model: "regatta-15m".parse().unwrap(),
            weights: Weights::Synthetic,
            format: Format::Gguf,
            precision: Precision::F32,
        },
        cells: cells(names),
        policy: Policy { repetitions, warmup, timeout: Duration::from_secs(30), threads: Some(1), ..Policy::default() },
        group: None,
    }
}

/// A sample that keeps all rules.
pub(crate) fn sample(cell: &TrialCell, epoch: Epoch, repetition: u32) -> pb::Sample {
    pb::Sample {
        cell_hash: cell.hash.0.as_bytes().to_vec(),
        epoch: epoch.0,
        repetition,
        started_at_unix_ns: 0,
        times: Some(pb::Times {
            tokenized_ns: 0,
            prefill_start_ns: 10,
            prefill_done_ns: 20,
            token_ns: vec![30, 40],
            end_ns: 40,
        }),
        prompt_tokens: 4,
        prompt_digest: Digest::of(b"prompt").as_bytes().to_vec(),
        batch: 1,
        output: vec![1, 2],
        load_ns: 1,
        first_repetition_ns: 1,
        warmup_repetitions: 1,
        peak_rss_bytes: None,
        threads: 1,
        flags: Vec::new(),
        video_memory: None,
    }
}
