//! Graphs are read back as they were written, and no others.

use std::path::Path;

use prost::Message;
use regatta_core::artifact::{Format, Precision};
use regatta_core::model::Shape;

use super::proto::{Entry, Model, Node};
use super::*;
use crate::convert::{self, Input};
use crate::verify::{Tokenizer, verify};
use crate::{config, synth, testing};

fn made(shape: &Shape, precision: Precision) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    synth::onnx(shape, 5, precision, folder.path(), &mut |_, _| {}).unwrap();
    folder
}

/// The graph, changed.
fn change(folder: &Path, change: impl FnOnce(&mut Model)) {
    let path = folder.join(FILE);
    let mut model = Model::decode(&*std::fs::read(&path).unwrap()).unwrap();
    change(&mut model);
    std::fs::write(&path, model.encode_to_vec()).unwrap();
}

fn refused(folder: &Path) -> String {
    verify(folder, Tokenizer::Optional).unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read_back() {
    for shape in [testing::llama(), testing::mistral(), testing::tied()] {
        for precision in [Precision::F32, Precision::F16] {
            let folder = made(&shape, precision);
            let found = verify(folder.path(), Tokenizer::Optional).unwrap();
            assert_eq!((found.format, found.precision, found.seed), (Format::Onnx, Some(precision), Some(5)));
            assert_eq!((&found.shape, found.parameters), (&shape, shape.parameters()));
            assert_eq!(found.weight_bytes, shape.parameters() * Number::of(precision).unwrap().bytes());
            let start = std::fs::read(folder.path().join(FILE)).unwrap()[..START.len()].to_vec();
            assert_eq!(start, START, "a graph is known by its first bytes");
        }
    }
}

#[test]
fn either_format_becomes_the_graph_that_is_made_from_the_seed_byte_for_byte() {
    for shape in [testing::llama(), testing::mistral(), testing::tied()] {
        let folder = tempfile::tempdir().unwrap();
        let [safetensors, from_gguf, from_safetensors] =
            ["s", "g", "f"].map(|name| folder.path().join(name)).map(|path| {
                std::fs::create_dir(&path).unwrap();
                path
            });
        let gguf = folder.path().join("x.gguf");
        synth::gguf(&shape, "tiny", 5, Precision::F32, &gguf, &mut |_, _| {}).unwrap();
        synth::safetensors(&shape, 5, Precision::F32, &safetensors, &mut |_, _| {}).unwrap();
        let expected = made(&shape, Precision::F16);
        for (from, to) in [(&gguf, &from_gguf), (&safetensors, &from_safetensors)] {
            convert::to_onnx(Input::open(from).unwrap(), Precision::F16, Some(&shape), to, &mut |_, _| {}).unwrap();
            for name in [FILE, DATA, config::CONFIG] {
                let [written, expected] =
                    [to.as_path(), expected.path()].map(|at| std::fs::read(at.join(name)).unwrap());
                assert!(written == expected, "{name} from {}", from.display());
            }
        }
    }
}

#[test]
fn weights_outside_the_folder_are_refused_with_the_path() {
    for location in ["/etc/passwd", "../model.onnx.data", "sub/model.onnx.data", "", "."] {
        let folder = made(&testing::llama(), Precision::F32);
        change(folder.path(), |model| {
            let tensor = &mut model.graph.as_mut().unwrap().initializer[3];
            tensor.external_data[0].value = location.to_owned();
        });
        let error = refused(folder.path());
        let expected = format!("'{location}' is named as a file of weights, and is not a plain file name");
        assert!(error.contains(&expected) && error.contains("model.onnx"), "{error}");
    }
    let folder = made(&testing::llama(), Precision::F32);
    // Not even where the tensor says that it is not elsewhere.
    change(folder.path(), |model| {
        let tensor = model.graph.as_mut().unwrap().initializer.last_mut().unwrap();
        tensor.external_data.push(Entry { key: "location".to_owned(), value: "config.json".to_owned() });
    });
    assert!(
        refused(folder.path()).contains("'config.json' is named as a file of weights; only model.onnx.data is read")
    );
}

#[cfg(unix)]
#[test]
fn weights_that_are_a_link_are_refused() {
    let folder = made(&testing::llama(), Precision::F32);
    let data = folder.path().join(DATA);
    let elsewhere = folder.path().join("elsewhere");
    std::fs::rename(&data, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &data).unwrap();
    assert!(refused(folder.path()).contains("'model.onnx.data' is not a plain file"));
}

#[test]
fn a_graph_that_computes_anything_else_is_refused_with_the_place() {
    type Hack = fn(&mut Model);
    let cases: [(Hack, &str); 6] = [
        (|model| model.graph.as_mut().unwrap().node[20].op_type = "Tanh".to_owned(), "it differs from node 21 on, '"),
        (|model| model.graph.as_mut().unwrap().node.push(Node::default()), "it differs from node"),
        (|model| model.producer_name = "pytorch".to_owned(), "it says that 'pytorch' wrote it"),
        (|model| model.producer_version = "9".to_owned(), "it is of version 9 of Regatta's graphs"),
        (
            |model| model.graph.as_mut().unwrap().initializer[0].dims = vec![1, 2],
            "1 wrong (model.embed_tokens.weight: shape [1, 2]",
        ),
        (
            |model| {
                let tensor = model.graph.as_mut().unwrap().initializer.last_mut().unwrap();
                tensor.raw_data = Some(vec![0; 8]);
            },
            "it has fields that are not written here",
        ),
    ];
    for (hack, expected) in cases {
        let folder = made(&testing::llama(), Precision::F32);
        change(folder.path(), hack);
        let error = refused(folder.path());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn fields_that_are_not_known_here_are_refused_and_not_passed_on() {
    let folder = made(&testing::llama(), Precision::F32);
    let path = folder.path().join(FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    // Field 25 of the model: functions, which an engine would run.
    bytes.extend([0xca, 0x01, 0x00]);
    std::fs::write(&path, bytes).unwrap();
    assert!(refused(folder.path()).contains("it has fields that are not written here"));
    std::fs::write(&path, b"\x08\x08\x12\x07regatta\xff\xff").unwrap();
    assert!(refused(folder.path()).contains("ONNX model"), "{}", refused(folder.path()));
}

#[test]
fn weights_of_another_size_are_told_with_both() {
    let folder = made(&testing::llama(), Precision::F32);
    let file = std::fs::File::options().write(true).open(folder.path().join(DATA)).unwrap();
    let size = file.metadata().unwrap().len();
    file.set_len(size - 1).unwrap();
    let error = refused(folder.path());
    assert!(error.contains(&format!("needs {size} bytes, found {}", size - 1)), "{error}");
}

#[test]
fn precisions_that_are_not_written_are_refused_with_the_way() {
    for precision in [Precision::Bf16, Precision::Q8_0] {
        let folder = tempfile::tempdir().unwrap();
        let error = synth::onnx(&testing::llama(), 5, precision, folder.path(), &mut |_, _| {}).unwrap_err();
        let expected = format!("{precision} cannot be written as onnx: only f32 and f16 can");
        assert!(error.to_string().contains(&expected), "{error}");
    }
    let folder = made(&testing::llama(), Precision::F32);
    let error = Input::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("not converted again") && error.contains("safetensors, gguf"), "{error}");
}
