//! The model manifest: the networks that scenarios can name.
//!
//! A manifest holds shapes, not weights: what a model is called, what it looks like, under which licence it comes, and
//! where its weights can be had.

use toml::Spanned;
use toml::de::DeTable;

use super::{Architecture, Model, Shape, source};
use crate::document::{At, Report, Section, closest, did_you_mean, quoted};
use crate::id::{name_rule, shown};
use crate::scenario::ScenarioErrors;

/// The manifest that comes with Regatta.
pub const BUILT_IN_MODELS: &str = include_str!("../../../scenarios/models.toml");

/// The version of the format.
const SCHEMA: u32 = 1;

const KEYS: [&str; 15] = [
    "description",
    "licence",
    "architecture",
    "hidden",
    "intermediate",
    "layers",
    "heads",
    "kv_heads",
    "vocab",
    "context",
    "rope_theta",
    "norm_eps",
    "tied_embeddings",
    "sliding_window",
    "artifact",
];

// Far above any published network of these families, far below what would overflow or fill a disk by mistake.
const MAX_WIDTH: u32 = 65_536;
const MAX_INTERMEDIATE: u32 = 262_144;
const MAX_LAYERS: u32 = 512;
const MAX_HEADS: u32 = 1_024;
const MAX_VOCAB: u32 = 1_000_000;
const MAX_CONTEXT: u32 = 10_000_000;

/// Reads and checks a manifest, with everything that is wrong with it. Models come in the order of the file.
pub fn parse_manifest(file: &str, text: &str) -> Result<Vec<Model>, ScenarioErrors> {
    let report = Report::new(file, text);
    let models = report.parse().map(|tree| models(&report, &tree));
    report.finish(models)
}

fn models(report: &Report<'_>, tree: &Spanned<DeTable<'_>>) -> Vec<Model> {
    let root = Section::root(report, tree, &["schema", "model"]);
    root.schema(SCHEMA);
    root.require("model", "a table [model.my-model]");
    let Some(list) = root.open_section("model") else { return Vec::new() };
    let ids = list.keys();
    if ids.is_empty() {
        report.rule(Some(list.line()), "model", "the manifest has no models".to_owned(), None);
    }
    ids.iter().filter_map(|id| model(report, &list, id)).collect()
}

fn model(report: &Report<'_>, list: &Section<'_, '_, '_>, at: &At<&str>) -> Option<Model> {
    let section = list.open_section(at.value)?;
    if let Some(rest) = section.first_table() {
        let rule = format!("the dot in '{}' starts a table of its own", shown(&section.key(rest)));
        let fix = format!("put ids in quotes: [model.\"{}\"]", shown(&format!("{}.{rest}", at.value)));
        report.rule(Some(at.line), &list.key(at.value), rule, Some(fix));
        return None;
    }
    let section = section.with_keys(&KEYS);
    let id = at.value.parse().ok();
    if id.is_none() {
        report.value(at.line, "model", &quoted(at.value), name_rule(), None);
    }
    let description = section.label("description").map(|at| at.value).unwrap_or_default();
    section.require("licence", "licence = \"Apache-2.0\"");
    let licence = section.label("licence").map(|at| at.value);
    let shape = shape(report, &section);
    let artifacts = source::artifacts(report, &section);
    Some(Model { id: id?, description, licence: licence?, shape: shape?, artifacts })
}

fn shape(report: &Report<'_>, section: &Section<'_, '_, '_>) -> Option<Shape> {
    let architecture = architecture(report, section);
    let size = |key: &'static str, most: u32| {
        section.require(key, &format!("{key} = …"));
        section.int32(key, 1..=most).map(|at| at.value)
    };
    let [hidden, intermediate] = [size("hidden", MAX_WIDTH), size("intermediate", MAX_INTERMEDIATE)];
    let [layers, heads, kv_heads] = [size("layers", MAX_LAYERS), size("heads", MAX_HEADS), size("kv_heads", MAX_HEADS)];
    let [vocab, context] = [size("vocab", MAX_VOCAB), size("context", MAX_CONTEXT)];
    section.require("rope_theta", "rope_theta = 10000.0");
    let rope_theta = section.number("rope_theta", 0.0, 1e12);
    section.require("norm_eps", "norm_eps = 1e-5");
    let norm_eps = section.number("norm_eps", 0.0, 0.1);
    section.require("tied_embeddings", "tied_embeddings = false");
    let tied_embeddings = section.boolean("tied_embeddings");
    let sliding_window = section.int32("sliding_window", 1..=MAX_CONTEXT).map(|at| at.value);
    let shape = Shape {
        architecture: architecture?,
        hidden: hidden?,
        intermediate: intermediate?,
        layers: layers?,
        heads: heads?,
        kv_heads: kv_heads?,
        vocab: vocab?,
        context: context?,
        rope_theta: narrowed(rope_theta?),
        norm_eps: narrowed(norm_eps?),
        tied_embeddings: tied_embeddings?,
        sliding_window,
    };
    check_heads(report, section, &shape);
    Some(shape)
}

fn architecture(report: &Report<'_>, section: &Section<'_, '_, '_>) -> Option<Architecture> {
    section.require("architecture", "architecture = \"llama\"");
    let At { value, line } = section.text("architecture")?;
    let found = Architecture::ALL.into_iter().find(|architecture| architecture.as_str() == value);
    if found.is_none() {
        let known = Architecture::ALL.map(Architecture::as_str);
        let rule = format!("not supported (supported: {})", known.join(", "));
        let fix = closest(value, known).map(did_you_mean);
        report.value(line, &section.key("architecture"), &quoted(value), rule, fix);
    }
    found
}

/// Attention splits the hidden width evenly over heads, heads evenly over key/value heads, and rotates pairs.
fn check_heads(report: &Report<'_>, section: &Section<'_, '_, '_>, shape: &Shape) {
    let Shape { hidden, heads, kv_heads, .. } = *shape;
    let rule = |key: &str, rule: String| report.rule(Some(section.line()), &section.key(key), rule, None);
    if !hidden.is_multiple_of(heads) {
        rule("heads", format!("{}: {hidden} is not a multiple of heads, {heads}", section.key("hidden")));
    } else if !shape.head_dim().is_multiple_of(2) {
        rule("heads", format!("{}: {hidden} / {heads} heads is odd, which can't be rotated", section.key("hidden")));
    }
    if !heads.is_multiple_of(kv_heads) {
        rule("kv_heads", format!("{}: {heads} is not a multiple of kv_heads, {kv_heads}", section.key("heads")));
    }
}

/// The number in the precision that engines read it in.
#[expect(clippy::cast_possible_truncation, reason = "the range was checked, and engines hold it in 32 bits anyway")]
fn narrowed(number: f64) -> f32 {
    number as f32
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::*;
    use crate::artifact::Precision;

    const GOOD: &str = r#"schema = 1
[model.m]
licence = "MIT"
architecture = "llama"
hidden = 256
intermediate = 768
layers = 2
heads = 8
kv_heads = 4
vocab = 1000
context = 2048
rope_theta = 10000.0
norm_eps = 1e-5
tied_embeddings = false
"#;

    /// What is said about a good manifest in which one piece of text is replaced.
    fn changed(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        match parse_manifest("models.toml", &GOOD.replace(from, to)) {
            Ok(_) => "accepted".to_owned(),
            Err(errors) => errors.to_string(),
        }
    }

    fn built_in(id: &str) -> Model {
        let models = parse_manifest("models.toml", BUILT_IN_MODELS).unwrap_or_else(|errors| panic!("{errors}"));
        models.into_iter().find(|model| model.id.as_str() == id).unwrap()
    }

    #[test]
    fn the_built_in_models_have_their_published_sizes() {
        assert_eq!(built_in("regatta-15m").shape.parameters(), 15_211_776);
        assert_eq!(built_in("smollm2-135m").shape.parameters(), 134_515_008);
        assert_eq!(built_in("tinyllama-1.1b").shape.parameters(), 1_100_048_384);
        assert_eq!(built_in("mistral-7b").shape.parameters(), 7_248_023_552);
        assert_eq!(built_in("mistral-7b-v0.1").shape.parameters(), 7_241_732_096);
        assert_eq!(built_in("mistral-7b-v0.1").shape.sliding_window, Some(4096));
    }

    #[test]
    fn the_demo_model_fits_every_precision() {
        let shape = built_in("regatta-15m").shape;
        for precision in Precision::ALL {
            assert!(
                shape.hidden.is_multiple_of(precision.block()) && shape.intermediate.is_multiple_of(precision.block())
            );
        }
    }

    #[test]
    fn models_come_in_the_order_of_the_file() {
        let text = GOOD.to_owned() + &GOOD.replace("schema = 1\n", "").replace("[model.m]", "[model.\"a.b\"]");
        let models = parse_manifest("models.toml", &text).unwrap();
        assert_eq!(models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), ["m", "a.b"]);
    }

    #[test]
    fn unsupported_architectures_are_refused_with_the_supported_ones() {
        assert_snapshot!(changed("\"llama\"", "\"gemma\""), @r#"models.toml:4: model.m.architecture = "gemma": not supported (supported: llama, mistral)"#);
        assert_snapshot!(changed("\"llama\"", "\"Llama\""), @r#"models.toml:4: model.m.architecture = "Llama": not supported (supported: llama, mistral); did you mean 'llama'?"#);
        assert_snapshot!(changed("\"llama\"", "3"), @"models.toml:4: model.m.architecture = 3: must be a text, is a whole number");
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert_snapshot!(changed("hidden = 256", "hidden = 250"), @"models.toml:2: model.m.hidden: 250 is not a multiple of heads, 8");
        assert_snapshot!(changed("hidden = 256", "hidden = 24"), @"models.toml:2: model.m.hidden: 24 / 8 heads is odd, which can't be rotated");
        assert_snapshot!(changed("kv_heads = 4", "kv_heads = 3"), @"models.toml:2: model.m.heads: 8 is not a multiple of kv_heads, 3");
        assert_snapshot!(changed("layers = 2", "layers = 0"), @"models.toml:7: model.m.layers = 0: must be 1 to 512");
        assert_snapshot!(changed("hidden = 256", "hidden = 131072"), @"models.toml:5: model.m.hidden = 131072: must be 1 to 65,536");
        assert_snapshot!(changed("vocab = 1000", "vocab = 2000000"), @"models.toml:10: model.m.vocab = 2000000: must be 1 to 1,000,000");
        assert_snapshot!(changed("norm_eps = 1e-5", "norm_eps = -1e-5"), @"models.toml:13: model.m.norm_eps = -1e-5: must be above 0 and at most 0.1");
        assert_snapshot!(changed("rope_theta = 10000.0", "rope_theta = inf"), @"models.toml:12: model.m.rope_theta = inf: must be above 0 and at most 1000000000000");
        assert_snapshot!(changed("rope_theta = 10000.0", "rope_theta = 10000"), @"accepted");
        assert_snapshot!(changed("tied_embeddings = false", "tied_embeddings = 0\nsliding_window = 0"), @"
        models.toml:14: model.m.tied_embeddings = 0: must be true or false, is a whole number
        models.toml:15: model.m.sliding_window = 0: must be 1 to 10,000,000
        ");
    }

    #[test]
    fn ids_and_keys_are_checked() {
        assert_snapshot!(changed("[model.m]", "[model.tiny-1.1b]"), @r#"models.toml:2: the dot in 'model.tiny-1.1b' starts a table of its own; put ids in quotes: [model."tiny-1.1b"]"#);
        assert_snapshot!(changed("[model.m]", "[model.\"../m\"]"), @r#"models.toml:2: model = "../m": use 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit"#);
        assert_snapshot!(changed("heads = 8", "head = 8"), @"models.toml:8: unknown key 'head' (allowed: description, licence, architecture, hidden, intermediate, layers, heads, kv_heads, vocab, context, rope_theta, norm_eps, tied_embeddings, sliding_window, artifact); did you mean 'heads'?");
        assert_snapshot!(changed("licence = \"MIT\"", ""), @r#"models.toml:2: missing key 'model.m.licence'; add licence = "Apache-2.0""#);
        assert_snapshot!(changed("schema = 1", "schema = 2"), @"models.toml:1: schema = 2: this program reads version 1; write schema = 1");
        assert_snapshot!(parse_manifest("models.toml", "").unwrap_err(), @"
        models.toml:1: missing key 'schema'; add schema = 1
        models.toml:1: missing key 'model'; add a table [model.my-model]
        ");
        assert_snapshot!(parse_manifest("models.toml", "schema = 1\n[model]").unwrap_err(), @"models.toml:2: the manifest has no models");
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in any::<String>()) {
            prop_assert!(parse_manifest("models.toml", &text).is_err());
        }

        #[test]
        fn damaged_manifests_do_not_panic(at in 0usize..200, length in 0usize..20, insert in any::<String>()) {
            let text: String = GOOD.chars().take(at).chain(insert.chars()).chain(GOOD.chars().skip(at + length)).collect();
            if let Err(errors) = parse_manifest("models.toml", &text) {
                prop_assert!(!errors.0.is_empty());
            }
        }
    }
}
