//! Faults that a workload's name scripts: `fault-abort` aborts, `fault-hang` hangs, and so on. Anything may follow after
//! a hyphen, so that one scenario can have several: `fault-hang-2`.
//!
//! A fault strikes when the second measured repetition is to be written (the first, where there is only one): what was
//! measured before must survive it.

use std::io::{self, Write};
use std::time::Duration;

use regatta_core::failure::FailureKind;
use regatta_core::sample::Sample;
use regatta_proto::frame;

use crate::backend::BackendError;
use crate::process;

/// A way to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Aborts the process.
    Abort,
    /// Dies of a segmentation fault.
    Segfault,
    /// Is killed, as the system's out-of-memory killer does it.
    Kill,
    /// Ends with exit code 3.
    Exit,
    /// Panics in the engine's thread.
    Panic,
    /// Never comes back.
    Hang,
    /// Reports that the device's memory did not suffice.
    Oom,
    /// Takes memory until there is none; it limits itself to 256 MiB before.
    OomHost,
    /// Writes bytes that are no frame.
    Garbage,
    /// Writes half a frame and exits.
    HalfFrame,
    /// Announces a frame of 1 GiB.
    HugeFrame,
    /// Leaves a child behind and aborts; its process id is printed to standard error.
    Grandchild,
    /// Reports token times that don't increase.
    Order,
    /// Reports one token too few.
    Count,
    /// Doesn't wait for its "device": times are too good to be true.
    NoSync,
    /// Gets slower with every repetition, so that warm-up never settles.
    Drift,
    /// Gives other tokens in every repetition.
    Output,
    /// Gives other tokens in every process, and the same in each repetition of one.
    OutputOfProcess,
    /// Now and then a step takes much longer.
    Spikes,
    /// Gets a little slower with every repetition, too little for warm-up to notice.
    Trend,
}

impl Fault {
    /// Every fault with its name. Longer names stand before those they begin with.
    pub const ALL: [(&'static str, Self); 20] = [
        ("fault-abort", Self::Abort),
        ("fault-segfault", Self::Segfault),
        ("fault-kill", Self::Kill),
        ("fault-exit", Self::Exit),
        ("fault-panic", Self::Panic),
        ("fault-hang", Self::Hang),
        ("fault-oom-host", Self::OomHost),
        ("fault-oom", Self::Oom),
        ("fault-garbage", Self::Garbage),
        ("fault-half-frame", Self::HalfFrame),
        ("fault-huge-frame", Self::HugeFrame),
        ("fault-grandchild", Self::Grandchild),
        ("fault-order", Self::Order),
        ("fault-count", Self::Count),
        ("fault-no-sync", Self::NoSync),
        ("fault-drift", Self::Drift),
        ("fault-output-process", Self::OutputOfProcess),
        ("fault-output", Self::Output),
        ("fault-spikes", Self::Spikes),
        ("fault-trend", Self::Trend),
    ];

    /// The fault that a workload of this name is to have.
    pub fn of(workload: &str) -> Option<Self> {
        let matches =
            |name: &str| workload.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        Self::ALL.into_iter().find(|(name, _)| matches(name)).map(|(_, fault)| fault)
    }

    /// Strikes just before `sample` is written to `pipe`, if its time has come.
    pub fn strike(self, sample: &mut Sample, repetitions: u32, pipe: &mut dyn Write) -> Result<(), BackendError> {
        if sample.key.repetition != 1.min(repetitions.saturating_sub(1)) {
            return Ok(());
        }
        match self {
            Self::Abort => std::process::abort(),
            Self::Segfault => process::die_of_segfault(),
            Self::Kill => process::die(),
            Self::Exit => std::process::exit(3),
            Self::Panic => panic!("scripted panic"),
            Self::Hang => hang(),
            Self::Oom => return Err(no_device_memory()),
            Self::OomHost => exhaust_memory(),
            Self::Garbage => garbage(pipe).map_err(BackendError::engine)?,
            Self::HalfFrame => half_frame(sample, pipe),
            Self::HugeFrame => huge_frame(pipe).map_err(BackendError::engine)?,
            Self::Grandchild => grandchild(),
            Self::Order => sample.times.tokens.reverse(),
            Self::Count => {
                let times = &mut sample.times.tokens;
                *times = times[..times.len().saturating_sub(1)].into();
            }
            Self::NoSync | Self::Drift | Self::Output | Self::OutputOfProcess | Self::Spikes | Self::Trend => {}
        }
        Ok(())
    }
}

fn hang() -> ! {
    loop {
        std::thread::sleep(Duration::from_hours(1));
    }
}

fn no_device_memory() -> BackendError {
    BackendError { kind: FailureKind::OomDevice, detail: "scripted: out of device memory".to_owned() }
}

fn exhaust_memory() {
    process::limit_memory(256 << 20);
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(vec![1; 16 << 20]);
    }
}

fn garbage(pipe: &mut dyn Write) -> io::Result<()> {
    // Announces 16 bytes, so that it is read as a frame and not as a length beyond the limit.
    pipe.write_all(&16u32.to_le_bytes())?;
    pipe.write_all(&[0xff; 16])?;
    pipe.flush()
}

fn half_frame(sample: &Sample, pipe: &mut dyn Write) {
    let wire = regatta_proto::pb::Sample::from(sample);
    if let Ok(bytes) = frame::encode(&wire) {
        let _ = pipe.write_all(&bytes[..bytes.len() / 2]);
        let _ = pipe.flush();
    }
    std::process::exit(0);
}

fn huge_frame(pipe: &mut dyn Write) -> io::Result<()> {
    pipe.write_all(&(1u32 << 30).to_le_bytes())?;
    pipe.write_all(&[0; 4096])?;
    pipe.flush()
}

#[expect(clippy::print_stderr, reason = "tests read the process id there")]
fn grandchild() {
    let mut command = std::process::Command::new("sleep");
    if let Ok(child) = command.arg("600").stdin(std::process::Stdio::null()).spawn() {
        eprintln!("grandchild {}", child.id());
    }
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (name, fault) in Fault::ALL {
            assert_eq!(Fault::of(name), Some(fault));
            assert_eq!(Fault::of(&format!("{name}-2")), Some(fault));
        }
        for name in ["abort", "fault", "fault-abortive", "short"] {
            assert_eq!(Fault::of(name), None, "{name}");
        }
    }
}
