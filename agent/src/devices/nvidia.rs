//! NVIDIA devices as the driver's library (NVML) lists them, numbered as CUDA shows them.

use regatta_core::device::{DeviceFacts, DeviceId, DeviceKind};

use super::accelerators::Sighting;
use crate::telemetry::nvml;

/// A device as the driver knows it, in the order of the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Card {
    uuid: String,
    name: String,
    memory_bytes: Option<u64>,
    architecture: Option<String>,
    pci_address: Option<String>,
    pci_link: Option<String>,
}

/// The devices that CUDA shows; none where the driver's library is not there.
pub(super) fn sightings() -> Vec<Sighting> {
    let Ok(library) = nvml::load() else { return Vec::new() };
    let driver = library.sys_driver_version().ok();
    let cards: Vec<Card> = (0..library.device_count().unwrap_or(0))
        .filter_map(|index| card(&library.device_by_index(index).ok()?))
        .collect();
    shown(&cards, std::env::var(nvml::VISIBLE).ok().as_deref(), driver.as_deref())
}

fn card(device: &nvml_wrapper::Device<'_>) -> Option<Card> {
    let link = || Some((device.max_pcie_link_gen().ok()?, device.max_pcie_link_width().ok()?));
    Some(Card {
        uuid: device.uuid().ok()?,
        name: device.name().ok()?,
        memory_bytes: device.memory_info().ok().map(|memory| memory.total),
        architecture: device.cuda_compute_capability().ok().map(|is| format!("sm_{}{}", is.major, is.minor)),
        pci_address: device.pci_info().ok().map(|pci| address(&pci.bus_id)),
        pci_link: link().map(|(generation, width)| format!("gen {generation} x{width}")),
    })
}

/// An address as Linux and ggml write it: NVML's domain has eight digits.
fn address(bus_id: &str) -> String {
    let lower = bus_id.to_ascii_lowercase();
    match lower.split_once(':') {
        Some((domain, rest)) if domain.len() == 8 => {
            format!("{}:{rest}", domain.strip_prefix("0000").unwrap_or(domain))
        }
        _ => lower,
    }
}

/// The cards that `visible`, the value of `CUDA_VISIBLE_DEVICES`, lets CUDA see, in its order; CUDA stops at the first entry that
/// names none. Without a value they are all shown, in the order of the bus, which workers are told to keep to.
fn shown(cards: &[Card], visible: Option<&str>, driver: Option<&str>) -> Vec<Sighting> {
    let chosen: Vec<&Card> = match visible {
        None => cards.iter().collect(),
        Some(text) => text.split(',').map_while(|entry| named(cards, entry.trim())).collect(),
    };
    let sighting = |(index, card): (u32, &Card)| Sighting {
        id: DeviceId { kind: DeviceKind::Cuda, index },
        name: card.name.clone(),
        memory_bytes: card.memory_bytes,
        facts: DeviceFacts {
            stable_id: Some(card.uuid.clone()),
            system_id: None,
            driver: driver.map(str::to_owned),
            architecture: card.architecture.clone(),
            pci_address: card.pci_address.clone(),
            pci_link: card.pci_link.clone(),
        },
    };
    (0..).zip(chosen).map(sighting).collect()
}

/// The card that an entry names: by its number, or by the beginning of its id.
fn named<'c>(cards: &'c [Card], entry: &str) -> Option<&'c Card> {
    if entry.starts_with("GPU-") {
        let mut fitting = cards.iter().filter(|card| card.uuid.starts_with(entry));
        return fitting.next().filter(|_| fitting.next().is_none());
    }
    cards.get(entry.parse::<usize>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(uuid: &str) -> Card {
        let text = |text: &str| Some(text.to_owned());
        Card {
            uuid: uuid.to_owned(),
            name: "NVIDIA H200".to_owned(),
            memory_bytes: Some(141 << 30),
            architecture: text("sm_90"),
            pci_address: text("0000:01:00.0"),
            pci_link: text("gen 5 x16"),
        }
    }

    fn seen(visible: Option<&str>) -> Vec<(String, String)> {
        let cards = ["GPU-aa11", "GPU-ab22", "GPU-cc33"].map(card);
        let line = |sighting: Sighting| (sighting.id.to_string(), sighting.facts.stable_id.unwrap());
        shown(&cards, visible, Some("580.1")).into_iter().map(line).collect()
    }

    fn expected(ids: &[&str]) -> Vec<(String, String)> {
        ids.iter().enumerate().map(|(index, id)| (format!("cuda:{index}"), (*id).to_owned())).collect()
    }

    #[test]
    fn cards_are_numbered_as_cuda_shows_them_and_keep_their_ids() {
        assert_eq!(seen(None), expected(&["GPU-aa11", "GPU-ab22", "GPU-cc33"]));
        assert_eq!(seen(Some("2,0")), expected(&["GPU-cc33", "GPU-aa11"]));
        assert_eq!(seen(Some("GPU-ab, GPU-cc33")), expected(&["GPU-ab22", "GPU-cc33"]));
    }

    #[test]
    fn cuda_stops_at_the_first_entry_that_names_no_card() {
        assert_eq!(seen(Some("1,9,0")), expected(&["GPU-ab22"]));
        assert_eq!(seen(Some("GPU-a,1")), expected(&[]), "two begin like that");
        assert_eq!(seen(Some("")), expected(&[]));
        assert_eq!(seen(Some("-1")), expected(&[]));
    }

    #[test]
    fn addresses_are_written_as_the_kernel_writes_them() {
        assert_eq!(address("00000000:C1:00.0"), "0000:c1:00.0");
        assert_eq!(
            address("00010000:01:00.0"),
            "00010000:01:00.0",
            "a domain that needs more than four digits keeps them"
        );
        assert_eq!(address("0000:01:00.0"), "0000:01:00.0");
    }
}
