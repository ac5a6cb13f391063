use super::*;
use crate::params;
use medley_protocol::spec::Spec;
use std::collections::BTreeSet;

fn of(family: Family, name: &str) -> Vec<(Axes, String, Option<usize>)> {
    match meaning(family, name) {
        Meaning::Values(axes, targets) => targets.into_iter().map(|t| (axes, t.name, t.third)).collect(),
        Meaning::Unused(_) => Vec::new(),
    }
}

#[test]
fn every_official_name_survives_the_way_to_hugging_face_and_back() {
    let document = serde_json::json!({"name": "t", "kind": "bootstrap", "preset": "tiny", "data": {"root": "/d"}});
    let layout = params::student(&Spec::from_document(&document).unwrap().model, 32, 40);
    let mut seen = BTreeSet::new();
    for (name, _) in layout.names() {
        let hf = to_hf(name);
        assert_eq!(of(Family::HfBlip, &hf), [(Axes::Same, name.to_owned(), None)], "{hf}");
        assert!(seen.insert(hf));
    }
    assert_eq!(
        to_hf("visual_encoder.norm.weight"),
        "vision_model.post_layernorm.weight"
    );
    assert_eq!(
        to_hf("visual_encoder.blocks.3.attn.proj.bias"),
        "vision_model.encoder.layers.3.self_attn.projection.bias"
    );
}

#[test]
fn berts_self_attention_starts_encoder_and_decoder() {
    let targets = of(Family::Bert, "bert.encoder.layer.0.attention.output.LayerNorm.gamma");
    let names: Vec<&str> = targets.iter().map(|(_, name, _)| name.as_str()).collect();
    let encoder = "text_encoder.encoder.layer.0.attention.output.LayerNorm.weight";
    let decoder = "text_decoder.bert.encoder.layer.0.attention.output.LayerNorm.weight";
    assert_eq!(names, [encoder, decoder]);
    assert_eq!(of(Family::Bert, "encoder.layer.0.output.dense.bias").len(), 1);
    assert!(of(Family::Bert, "embeddings.token_type_embeddings.weight").is_empty());
    assert!(of(Family::Bert, "pooler.dense.weight").is_empty());
}

#[test]
fn separate_queries_keys_and_values_are_thirds() {
    let qkv = "visual_encoder.blocks.7.attn.qkv.weight".to_owned();
    let hf = of(Family::HfVit, "deit.encoder.layer.7.attention.attention.key.weight");
    assert_eq!(hf, [(Axes::Same, qkv.clone(), Some(1))]);
    let jax = of(
        Family::JaxVit,
        "Transformer/encoderblock_7/MultiHeadDotProductAttention_1/value/kernel",
    );
    assert_eq!(jax, [(Axes::ToHeads, qkv, Some(2))]);
}

#[test]
fn the_momentum_encoders_cross_attention_is_left_out_by_name() {
    let name = "text_encoder_m.encoder.layer.0.crossattention.self.key.weight";
    assert_eq!(
        meaning(Family::Official, name),
        Meaning::Unused("nobody reads the momentum encoder's cross-attention")
    );
    let Meaning::Values(_, targets) = meaning(Family::Official, "module.visual_encoder_m.cls_token") else {
        panic!("a momentum tensor");
    };
    assert_eq!(
        (targets[0].part, targets[0].name.as_str()),
        (Part::Momentum, "visual_encoder.cls_token")
    );
}

#[test]
fn families_are_told_apart() {
    let family = |names: &[&'static str]| Family::of(names.iter().copied());
    assert_eq!(family(&["temp", "visual_encoder.cls_token"]), Some(Family::Official));
    assert_eq!(
        family(&["vision_model.embeddings.class_embedding"]),
        Some(Family::HfBlip)
    );
    assert_eq!(family(&["cls_token", "patch_embed.proj.weight"]), Some(Family::Vit));
    assert_eq!(
        family(&["vit.embeddings.patch_embeddings.projection.bias"]),
        Some(Family::HfVit)
    );
    assert_eq!(
        family(&["cls", "Transformer/encoderblock_0/LayerNorm_0/bias"]),
        Some(Family::JaxVit)
    );
    assert_eq!(
        family(&["bert.encoder.layer.0.attention.self.query.weight"]),
        Some(Family::Bert)
    );
    assert_eq!(family(&["layers.0.weight"]), None);
}
