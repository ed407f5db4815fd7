//! Canaries: a series that grows by what is new, and goes along with a run.

use std::collections::BTreeMap;

use jiff::Timestamp;
use regatta_core::canary::{CANARY_VERSION, Canary, Reading};
use regatta_core::roofline::peaks::Number;
use regatta_store::{AgentSeen, Store};

use crate::common;

fn canary(device: &str, measured_at: i64, read: Option<f64>) -> Canary {
    Canary {
        device: device.parse().unwrap(),
        device_name: "a device".to_owned(),
        measured_at: Timestamp::from_second(measured_at).unwrap(),
        reading: Reading {
            version: CANARY_VERSION,
            engine: "candle 0.11.0".to_owned(),
            threads: 2,
            buffer_bytes: 1 << 30,
            cache_bytes: Some(32 << 20),
            read_bytes_per_s: read,
            mixed_bytes_per_s: Some(1e9),
            flops: BTreeMap::from([(Number::F32, 1e11), (Number::Bf16, 3e11)]),
            launch_ns: None,
        },
    }
}

async fn seen(store: &Store, agent: &str, canaries: Vec<Canary>) {
    let seen = AgentSeen {
        id: agent.parse().unwrap(),
        boot_id: "boot".to_owned(),
        version: "0.1.0".to_owned(),
        host: BTreeMap::new(),
        labels: BTreeMap::new(),
        workers: Vec::new(),
        devices: Vec::new(),
        canaries,
    };
    store.writer().write(seen).await.unwrap();
}

#[tokio::test]
async fn a_series_grows_by_what_is_new() {
    let temp = common::store().await;
    let (first, second) = (canary("cpu", 100, Some(2e10)), canary("cpu", 200, None));
    let gpu = canary("cuda:0", 100, None);
    seen(&temp.store, "host-a", vec![first.clone(), gpu.clone()]).await;
    // The same again, as after a reconnect, and a new one.
    seen(&temp.store, "host-a", vec![first.clone(), second.clone()]).await;
    seen(&temp.store, "host-b", vec![first.clone()]).await;
    let of_a = |records: Vec<regatta_store::CanaryRecord>| -> Vec<Canary> {
        records.into_iter().filter(|record| record.agent.as_str() == "host-a").map(|record| record.canary).collect()
    };
    let reader = temp.store.reader();
    assert_eq!(reader.canaries().await.unwrap().len(), 4);
    assert_eq!(of_a(reader.canaries().await.unwrap()), [first, second.clone(), gpu.clone()]);
    assert_eq!(of_a(reader.newest_canaries().await.unwrap()), [second, gpu]);
}
