//! One whole step against plain formulas in double precision: losses and every gradient, tied weights, shared keys and
//! values, and dropout with the same masks included.
#![allow(clippy::unwrap_used, missing_docs)]

mod plain;

use candle_core::{DType, Device, Result, Tensor, Var};
use medley_model::blip::{Blip, Candidates, Guest, LaneBatch, LaneStep};
use medley_model::device::{Pool, Span};
use medley_model::flat::Flat;
use medley_model::layout::Layout;
use medley_model::loss::itc::Distillation;
use medley_model::loss::itm;
use medley_model::params::{Objective, Vocabulary};
use medley_model::random::{Purpose, Stream};
use medley_model::state::State;
use medley_model::tape::Gradient;
use medley_protocol::spec::{ModelSpec, SameImage, Spec};
use plain::formulas::{log_softmax, matrix, softmax};
use plain::{Plain, TextPass};

const B: usize = 3;
const SMOOTHING: f64 = 0.1;
/// Images of the lane, and some of the queue's: the first and the last sample show the same.
const IDENTITIES: [u64; B] = [70, 80, 70];
const QUEUED: [(usize, u64); 3] = [(1, 80), (4, 70), (9, 80)];

/// What is computed, both ways.
#[derive(Clone)]
struct Case {
    dropout: f64,
    objective: Objective,
    alpha: f64,
    teacher_temperature: Option<f64>,
    same_image: SameImage,
    /// Negatives that are given; 3 is a guest.
    negatives: Option<itm::Negatives>,
}

impl Case {
    fn of(objective: Objective) -> Self {
        Self {
            dropout: 0.1,
            objective,
            alpha: 0.3,
            teacher_temperature: None,
            same_image: match objective {
                Objective::Filter => SameImage::Positive,
                _ => SameImage::Negative,
            },
            negatives: None,
        }
    }

    /// Columns of each row that match it.
    fn matches(&self, row: usize, column: usize, queue: usize) -> bool {
        if self.same_image == SameImage::Negative {
            return row == column;
        }
        let mut queued = vec![0; queue];
        QUEUED.iter().for_each(|(at, id)| queued[*at] = *id);
        let identity = IDENTITIES.iter().chain(&queued).nth(column).unwrap();
        *identity == IDENTITIES[row]
    }
}

fn model(dropout: f64) -> ModelSpec {
    let document = serde_json::json!({
        "name": "t", "kind": "bootstrap", "preset": "nano", "data": {"root": "/d"},
        "model": {"queue": 16, "text": {"dropout": dropout, "depth": 2}, "vision": {"image_size": 16}},
        "pretrain": {"image_size": 16}, "captioner": {"image_size": 16}, "filter": {"image_size": 16}
    });
    Spec::from_document(&document).unwrap().model
}

fn vocabulary() -> Vocabulary {
    Vocabulary {
        size: 40,
        pad: 0,
        cls: 2,
        sep: 3,
        dec: 4,
        enc: 5,
    }
}

/// The lane's texts, and a guest's.
fn texts() -> Vec<Vec<u32>> {
    vec![
        vec![2, 10, 11, 12, 3],
        vec![2, 13, 3],
        vec![2, 11, 14, 15, 16, 17, 3],
        vec![2, 18, 19, 3],
    ]
}

fn pixels(n: usize) -> Vec<f32> {
    let stream = Stream::new(7, Purpose::Init);
    (0..n as u32)
        .flat_map(|i| stream.normals([i, 0, 0, 0]))
        .take(n)
        .collect()
}

/// A state some steps into training: moments aside, everything differs from its start.
fn state(blip: &Blip) -> State {
    let mut state = State::fresh(blip, 3);
    let jitter = Stream::new(8, Purpose::Init);
    for (salt, flat) in [(0, &mut state.params), (1, &mut state.ema)] {
        for (i, v) in flat.iter_mut().enumerate() {
            *v += 0.05 * jitter.normals([i as u32, salt, 0, 0])[0];
        }
    }
    state.params[0] = 0.2;
    QUEUED.iter().for_each(|(at, id)| state.queued_identities[*at] = *id);
    state
}

fn plain<'a>(model: &'a ModelSpec, layout: &Layout, values: &[f32]) -> Plain<'a> {
    let mut by_entry = std::collections::HashMap::new();
    let var = |name: &str, id| {
        let entry = layout.entry(id);
        let make = || {
            let values: Vec<f64> = values[entry.range()].iter().map(|&v| f64::from(v)).collect();
            Var::from_tensor(&Tensor::from_vec(values, entry.shape.as_slice(), &Device::Cpu).unwrap()).unwrap()
        };
        (name.to_owned(), by_entry.entry(id).or_insert_with(make).clone())
    };
    Plain {
        model,
        vars: layout
            .names()
            .map({
                let mut var = var;
                move |(name, id)| var(name, id)
            })
            .collect(),
    }
}

fn features(plain: &Plain, images: &[Tensor], stream: Option<Stream>) -> Result<(Tensor, Tensor)> {
    let image = images
        .iter()
        .map(|image| plain.feature("vision_proj", image))
        .collect::<Result<Vec<_>>>()?;
    let text = texts().into_iter().take(B).enumerate().map(|(i, text)| {
        let pass = TextPass {
            decoder: false,
            image: None,
            stream,
            sample: i as u32,
        };
        plain.feature("text_proj", &plain.text(&text, pass)?)
    });
    Ok((
        Tensor::cat(&image, 0)?,
        Tensor::cat(&text.collect::<Result<Vec<_>>>()?, 0)?,
    ))
}

/// Image → text and text → image logits with their loss.
fn contrast(
    student: &Plain,
    (image, text): (&Tensor, &Tensor),
    (image_m, text_m): (&Tensor, &Tensor),
    state: &State,
    case: &Case,
) -> Result<(Tensor, Tensor, Tensor)> {
    let width = image.dim(1)?;
    let images = Tensor::cat(&[image_m, &matrix(&state.image_queue, width)?], 0)?;
    let texts = Tensor::cat(&[text_m, &matrix(&state.text_queue, width)?], 0)?;
    let t = student.temperature()?;
    let teacher_t = match case.teacher_temperature {
        Some(t) => Tensor::new(&[[t]], &Device::Cpu)?,
        None => t.detach(),
    };
    let one_way = |query: &Tensor, teacher: &Tensor, keys: &Tensor| -> Result<(Tensor, Tensor)> {
        let soft = softmax(&teacher.matmul(&keys.t()?)?.broadcast_div(&teacher_t)?)?;
        let (b, n) = soft.dims2()?;
        let cells = (0..b * n).map(|i| f64::from(u8::from(case.matches(i / n, i % n, n - b))));
        let equal = Tensor::from_vec(cells.collect(), (b, n), &Device::Cpu)?;
        let hard = equal.broadcast_div(&equal.sum_keepdim(1)?)?;
        let targets = ((soft * case.alpha)? + (hard * (1.0 - case.alpha))?)?.detach();
        let logits = query.matmul(&keys.t()?)?.broadcast_div(&t)?;
        let loss = (targets * log_softmax(&logits)?)?.sum_all()?.neg()?;
        Ok((logits, (loss / b as f64)?))
    };
    let (i2t, a) = one_way(image, image_m, &texts)?;
    let (t2i, b) = one_way(text, text_m, &images)?;
    Ok((((a + b)? * 0.5)?, i2t, t2i))
}

fn matching(student: &Plain, images: &[Tensor], negatives: &itm::Negatives, stream: Stream) -> Result<Tensor> {
    let own = (0..B).map(|i| (i, i));
    let image = (0..B).map(|i| (i, negatives.image_of_text[i] as usize));
    let text = (0..B).map(|i| (negatives.text_of_image[i] as usize, i));
    let rows = own.chain(image).chain(text).enumerate().map(|(sample, (text, image))| {
        let mut ids = texts()[text].clone();
        ids[0] = vocabulary().enc;
        let pass = TextPass {
            decoder: false,
            image: Some(&images[image]),
            stream: Some(stream),
            sample: sample as u32,
        };
        let logits = student.linear("itm_head", &student.text(&ids, pass)?.narrow(0, 0, 1)?)?;
        log_softmax(&logits)?.narrow(1, usize::from(sample < B), 1)
    });
    Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?.mean_all()?.neg()
}

fn modelling(student: &Plain, images: &[Tensor], stream: Stream) -> Result<Tensor> {
    let mut losses = Vec::new();
    for (i, text) in texts().into_iter().take(B).enumerate() {
        let mut ids = text.clone();
        ids[0] = vocabulary().dec;
        let pass = TextPass {
            decoder: true,
            image: Some(&images[i]),
            stream: Some(stream),
            sample: (3 * B + i) as u32,
        };
        let logp = log_softmax(&student.predict(&student.text(&ids, pass)?)?)?;
        for (row, &target) in text.iter().skip(1).enumerate() {
            let row = logp.narrow(0, row, 1)?;
            let nll = row.narrow(1, target as usize, 1)?.sum_all()?.neg()?;
            let uniform = row.mean_all()?.neg()?;
            losses.push(((nll * (1.0 - SMOOTHING))? + (uniform * SMOOTHING)?)?.reshape(1)?);
        }
    }
    Tensor::cat(&losses, 0)?.mean_all()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn step(case: &Case) -> LaneStep {
    LaneStep {
        objective: case.objective,
        seed: 5,
        step: 9,
        lane: 1,
        distillation: Distillation {
            alpha: case.alpha as f32,
            temperature: case.teacher_temperature.map(|t| t as f32),
        },
        same_image: case.same_image,
        prompt_tokens: 0,
    }
}

/// The lane's batch with a guest.
fn batch<'a>(pixels: &'a [f32], texts: &'a [Vec<u32>]) -> LaneBatch<'a> {
    LaneBatch {
        pixels: pixels.into(),
        texts,
        identities: &IDENTITIES,
        guests: &[Guest { lane: 0, image: 2 }],
    }
}

fn to_f32(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// The negatives that the lane has to draw itself.
fn drawn(case: &Case, step: LaneStep, logits: &[Tensor; 2]) -> itm::Negatives {
    let identities = match case.same_image {
        SameImage::Negative => [1, 2, 3],
        SameImage::Positive => IDENTITIES,
    };
    let rule = itm::Draw {
        identities: &identities,
        first: 0,
        floor: if case.objective == Objective::Pretrain {
            1e-4
        } else {
            0.0
        },
        stream: Stream::new(step.seed, Purpose::Negatives).at(step.step).at(1).at(0),
    };
    rule.negatives(&to_f32(&logits[0]), &to_f32(&logits[1]), B)
}

fn compare(case: &Case) {
    let model = model(case.dropout);
    let blip = Blip::new(&model, 16, vocabulary());
    let state = state(&blip);
    let (pixels, texts) = (pixels((B + 1) * 3 * 16 * 16), texts());
    let step = step(case);
    let mut grad = Flat::zeros(blip.student_layout.len());
    grad.fill(f32::NAN);
    let output = blip
        .lane_with(
            &state,
            batch(&pixels, &texts),
            step,
            case.negatives.as_ref(),
            &mut Pool::default(),
            &mut grad,
        )
        .unwrap();

    let lane = |purpose, pass| Stream::new(5, purpose).at(9).at(1).at(pass);
    let image = |plain: &Plain, i: usize| {
        let image = matrix(&pixels[i * 768..(i + 1) * 768], 16).unwrap();
        plain.vision(&image.reshape((3, 16, 16)).unwrap()).unwrap()
    };
    let student = plain(&model, &blip.student_layout, &state.params);
    let images: Vec<Tensor> = (0..=B).map(|i| image(&student, i)).collect();
    let mut losses = [None, None, None];
    if case.objective.understands() {
        let teacher = plain(&model, &blip.momentum_layout, &state.ema);
        let teacher_images: Vec<Tensor> = (0..B).map(|i| image(&teacher, i)).collect();
        let (image_m, text_m) = features(&teacher, &teacher_images, Some(lane(Purpose::Dropout, 1))).unwrap();
        let (image_m, text_m) = (image_m.detach(), text_m.detach());
        let (image_s, text_s) = features(&student, &images[..B], Some(lane(Purpose::Dropout, 0))).unwrap();
        let (loss, i2t, t2i) = contrast(&student, (&image_s, &text_s), (&image_m, &text_m), &state, case).unwrap();
        let logits = if case.objective == Objective::Pretrain {
            [i2t, t2i]
        } else {
            let alike = |a: &Tensor, b: &Tensor| (a.matmul(&b.t().unwrap()).unwrap() / 0.2).unwrap();
            [alike(&image_s, &text_s), alike(&text_s, &image_s)]
        };
        let negatives = case.negatives.clone().unwrap_or_else(|| drawn(case, step, &logits));
        let close = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close(&output.image_features, &to_f32(&image_m)) && close(&output.text_features, &to_f32(&text_m)));
        losses[0] = Some(loss);
        losses[1] = Some(matching(&student, &images, &negatives, lane(Purpose::Dropout, 2)).unwrap());
    }
    if case.objective.generates() {
        losses[2] = Some(modelling(&student, &images, lane(Purpose::Dropout, 2)).unwrap());
    }
    for (ours, exact) in output.losses.iter().zip(&losses) {
        let exact = exact.as_ref().map_or(0.0, |l| l.to_scalar::<f64>().unwrap());
        assert!(
            (f64::from(*ours) - exact).abs() <= 1e-5 * exact.abs(),
            "loss {ours} against {exact}"
        );
    }
    let total = losses.into_iter().flatten().reduce(|a, b| (a + b).unwrap()).unwrap();
    let grads = total.backward().unwrap();
    check_gradients(&blip, &student, &grads, &grad);
}

/// Each gradient within 1e-5 of its norm, with a floor for those that are zero in exact arithmetic (key biases).
fn check_gradients(blip: &Blip, student: &Plain, grads: &candle_core::backprop::GradStore, ours: &[f32]) {
    let exact = |name: &str, len: usize| -> Vec<f64> {
        let grad = grads.get(student.vars[name].as_tensor());
        grad.map_or_else(|| vec![0.0; len], |g| g.flatten_all().unwrap().to_vec1().unwrap())
    };
    let all: Vec<f64> = blip
        .student_layout
        .entries()
        .iter()
        .flat_map(|e| exact(&e.name, e.len))
        .collect();
    let rms = norm(&all) / (all.len() as f64).sqrt();
    for entry in blip.student_layout.entries() {
        let exact = exact(&entry.name, entry.len);
        let difference: Vec<f64> = ours[entry.range()]
            .iter()
            .zip(&exact)
            .map(|(a, b)| f64::from(*a) - b)
            .collect();
        let allowed = 1e-5 * norm(&exact) + 1e-6 * rms * (entry.len as f64).sqrt();
        assert!(
            norm(&difference) <= allowed,
            "{}: {} > {allowed}",
            entry.name,
            norm(&difference)
        );
    }
}

#[test]
fn a_pre_training_step_agrees_with_the_formulas() {
    compare(&Case {
        dropout: 0.0,
        ..Case::of(Objective::Pretrain)
    });
}

#[test]
fn a_pre_training_step_with_dropout_agrees_with_the_formulas() {
    compare(&Case::of(Objective::Pretrain));
}

#[test]
fn a_captioning_step_agrees_with_the_formulas() {
    compare(&Case::of(Objective::Captioner));
}

#[test]
fn a_filtering_step_spreads_targets_over_texts_of_one_image() {
    compare(&Case::of(Objective::Filter));
}

#[test]
fn a_pre_training_step_can_spread_them_too() {
    compare(&Case {
        same_image: SameImage::Positive,
        ..Case::of(Objective::Pretrain)
    });
}

#[test]
fn distillation_off_on_and_in_between_agrees_with_the_formulas() {
    for (alpha, teacher_temperature) in [(0.0, None), (0.4, Some(0.05)), (1.0, None), (1.0, Some(0.5))] {
        compare(&Case {
            alpha,
            teacher_temperature,
            ..Case::of(Objective::Filter)
        });
    }
}

#[test]
fn negatives_of_other_lanes_get_their_gradient_in_this_one() {
    compare(&Case {
        negatives: Some(itm::Negatives {
            image_of_text: vec![3, 0, 3],
            text_of_image: vec![1, 3, 1],
        }),
        ..Case::of(Objective::Filter)
    });
}

#[test]
fn drawing_from_all_of_one_lane_is_drawing_from_the_lane() {
    let model = model(0.1);
    let blip = Blip::new(&model, 16, vocabulary());
    let state = state(&blip);
    let (pixels, texts) = (pixels(B * 3 * 16 * 16), texts());
    let batch = LaneBatch {
        pixels: (&pixels).into(),
        texts: &texts[..B],
        identities: &IDENTITIES,
        guests: &[],
    };
    let mut pool = Pool::default();
    let [mut alone, mut together] = [(); 2].map(|()| Flat::zeros(blip.student_layout.len()));
    for number in 0..20 {
        let step = LaneStep {
            step: number,
            lane: 0,
            ..step(&Case::of(Objective::Filter))
        };
        let (image_features, text_features) = blip.student_features(&state, batch, step, &mut pool).wait();
        let candidates = Candidates {
            image_features: &image_features,
            text_features: &text_features,
            identities: &IDENTITIES,
        };
        let seated = blip
            .draw(state.temperature(&blip), candidates, step, B)
            .seat(0, B as u32);
        assert!(seated.images.is_empty() && seated.texts.is_empty());
        let given = Some(&seated.negatives);
        let expected = blip.lane(&state, batch, step, &mut pool, &mut alone).unwrap();
        let found = blip
            .lane_with(&state, batch, step, given, &mut pool, &mut together)
            .unwrap();
        assert_eq!(found, expected);
        assert!(
            alone
                .iter()
                .zip(together.iter())
                .all(|(a, b)| a.to_bits() == b.to_bits())
        );
    }
}

#[test]
fn activations_that_are_computed_again_change_no_bit_and_take_less_memory() {
    let mut model = model(0.1);
    (model.vision.depth, model.vision.drop_path) = (4, 0.5);
    let kept = Blip::new(&model, 16, vocabulary());
    let computed = Blip {
        recomputes: true,
        ..Blip::new(&model, 16, vocabulary())
    };
    let state = state(&kept);
    let (pixels, texts) = (pixels((B + 1) * 3 * 16 * 16), texts());
    for objective in [Objective::Pretrain, Objective::Captioner, Objective::Filter] {
        let step = step(&Case::of(objective));
        let [(expected, gradient, most), (found, again, least)] = [&kept, &computed].map(|blip| {
            let (mut pool, mut gradient) = (Pool::default(), Flat::zeros(blip.student_layout.len()));
            let output = blip.lane(&state, batch(&pixels, &texts), step, &mut pool, &mut gradient);
            (output.unwrap(), gradient, pool.peak_bytes())
        });
        assert_eq!(found, expected);
        assert!(gradient.as_bytes() == again.as_bytes(), "{objective:?}");
        assert!(4 * least < 3 * most, "{objective:?}: {least} of {most} bytes");
    }
}

#[test]
fn what_is_told_to_be_final_stays_as_it_is_and_most_is_long_before_the_lane_ends() {
    let (pixels, texts) = (pixels((B + 1) * 3 * 16 * 16), texts());
    for (objective, recomputes) in [
        (Objective::Pretrain, false),
        (Objective::Pretrain, true),
        (Objective::Captioner, false),
        (Objective::Filter, false),
    ] {
        let blip = Blip {
            recomputes,
            ..Blip::new(&model(0.1), 16, vocabulary())
        };
        let mut gradient = Flat::zeros(blip.student_layout.len());
        let mut told: Vec<(usize, Vec<f32>)> = Vec::new();
        let mut watch = |from: usize, values: Span| told.push((from, values.host()[from..].to_vec()));
        let watched = Gradient {
            values: (&mut gradient).into(),
            watch: Some(&mut watch),
        };
        let step = step(&Case::of(objective));
        blip.lane(
            &state(&blip),
            batch(&pixels, &texts),
            step,
            &mut Pool::default(),
            watched,
        )
        .unwrap();
        assert!(
            told.is_sorted_by(|(earlier, _), (later, _)| earlier > later),
            "{objective:?}"
        );
        assert_eq!(told.last().map(|(from, _)| *from), Some(0), "in the end all is final");
        for (from, values) in &told {
            let same = values
                .iter()
                .zip(&gradient[*from..])
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{objective:?}: what was final from {from} on has changed");
        }
        let tower = |name: &str| blip.student_layout.entry(blip.student_layout.id(name)).offset;
        for name in ["visual_encoder.blocks.1.norm1.weight", "visual_encoder.norm.weight"] {
            let before = told.iter().any(|(from, _)| *from == tower(name));
            assert!(before, "{objective:?}: {name} is told when it is final");
        }
    }
}
