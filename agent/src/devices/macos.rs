//! The processor as macOS describes it.

use std::process::Command;

use super::Processor;

/// Asks `sysctl`.
pub(super) fn processor() -> Processor {
    Processor {
        name: sysctl("machdep.cpu.brand_string"),
        physical_cores: sysctl("hw.physicalcpu").and_then(|text| text.parse().ok()),
        memory_bytes: sysctl("hw.memsize").and_then(|text| text.parse().ok()),
    }
}

fn sysctl(name: &str) -> Option<String> {
    let output = Command::new("/usr/sbin/sysctl").args(["-n", name]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
