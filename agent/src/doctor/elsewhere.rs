//! What other systems than Linux tell without a program being asked.

use sysinfo::System;

use super::Machine;

/// Whether there are signs of NVIDIA's driver beside its library.
pub(super) fn has_nvidia() -> bool {
    false
}

/// The machine, as far as it can be told.
pub(super) fn machine() -> Machine {
    let available = System::new().ok().map(|mut system| {
        system.refresh_memory();
        system.available_memory()
    });
    Machine { memory_available_bytes: available.filter(|&bytes| bytes > 0), ..Machine::default() }
}
