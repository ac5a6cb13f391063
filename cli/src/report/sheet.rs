//! The contact sheet: images with both their texts, scores and what became of them.
//!
//! The images are not picked for their results: of each kind of noise, the same number, evenly spaced over the web set.

use super::captions::in_words;
use super::filtering::{KINDS, judged, known};
use super::inputs::{Captioned, Inputs};
use anyhow::{Context, Result, anyhow};
use image::{ImageEncoder, Rgb as Pixel, RgbImage, imageops};
use medley_data::decode::jpeg;
use medley_data::shards;
use medley_data::synth::Noise;
use std::fmt::Write;
use std::path::Path;

/// Images of each kind of noise.
const PER_KIND: usize = 6;
/// Side of an image in the PNG, in pixels.
const SIDE: u32 = 128;
/// Height of the two marks under it, and the space between images.
const MARK: u32 = 10;
const GAP: u32 = 8;

const KEPT: Pixel<u8> = Pixel([46, 158, 91]);
const DROPPED: Pixel<u8> = Pixel([208, 64, 64]);
const PAPER: Pixel<u8> = Pixel([250, 250, 250]);

/// One image of the sheet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Card {
    pub(super) jpeg: Vec<u8>,
    pub(super) truth: String,
    pub(super) noise: Noise,
    pub(super) web: Text,
    pub(super) synthetic: Text,
}

/// A text of a card.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Text {
    pub(super) words: String,
    pub(super) probability: f32,
    pub(super) kept: bool,
    pub(super) right: bool,
}

/// The cards of the last round; none without a round.
///
/// # Errors
/// Names the shard that cannot be read.
pub(super) fn choose(inputs: &Inputs) -> Result<Vec<Card>> {
    let Some(round) = inputs.rounds.last() else {
        return Ok(Vec::new());
    };
    let all = judged(round, &known(&inputs.web))?;
    let mut cards = Vec::new();
    for kind in KINDS {
        let of_kind: Vec<_> = all.iter().filter(|j| j.truth.noise == kind).collect();
        let count = PER_KIND.min(of_kind.len());
        for judged in (0..count).map(|i| of_kind[i * of_kind.len() / count]) {
            let shard = round.shards.iter().find(|shard| shard.file == judged.file);
            let shard = shard.ok_or_else(|| anyhow!("shard {} is not in its round", judged.file))?;
            cards.push(Card {
                jpeg: read(&inputs.web_dir, shard, judged.sample)?,
                truth: in_words(judged.truth.scene),
                noise: kind,
                web: Text {
                    words: shard.index.samples[judged.sample].text.clone(),
                    probability: judged.entry.web_probability,
                    kept: judged.keeps_web(),
                    right: kind == Noise::Right,
                },
                synthetic: Text {
                    words: judged.entry.synthetic.clone(),
                    probability: judged.entry.synthetic_probability,
                    kept: judged.keeps_synthetic(),
                    right: judged.is_exact(),
                },
            });
        }
    }
    Ok(cards)
}

fn read(dir: &Path, shard: &Captioned, sample: usize) -> Result<Vec<u8>> {
    let path = dir.join(&shard.file);
    let extent = shard.index.samples[sample].image;
    let read = || shards::read(&std::fs::File::open(&path)?, extent);
    read().with_context(|| format!("cannot read an image of {}", path.display()))
}

const STYLE: &str = "
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 14px; }
article { border: 1px solid #8884; border-radius: 10px; overflow: hidden; display: grid; grid-template-columns: 112px 1fr; }
img { width: 112px; height: 112px; image-rendering: pixelated; grid-row: span 2; }
h3 { font-size: 12px; font-weight: 500; margin: 0; padding: 6px 10px; opacity: .75; }
p { margin: 0; padding: 6px 10px; grid-column: 1 / -1; border-top: 1px solid #8884; border-left: 5px solid; }
p.kept { border-left-color: #2e9e5b; } p.dropped { border-left-color: #d04040; }
p.dropped .text { text-decoration: line-through; opacity: .7; }
small { opacity: .7; float: right; font-variant-numeric: tabular-nums; }
";

/// The sheet as one page that needs nothing else.
pub(super) fn html(cards: &[Card]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Kept and dropped texts</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\
         <h1>Kept and dropped texts</h1><p class=\"kept\">Green: kept. Red and struck through: dropped. The number is the match \
         probability; ✓ and ✗ say whether the text is in truth right. The images are evenly spaced over the web set, the \
         same number of each kind of noise; they are not picked for their results.</p><main>\n"
    );
    for card in cards {
        let _ = writeln!(
            page,
            "<article><img alt=\"{truth}\" src=\"data:image/jpeg;base64,{image}\"><h3>in truth: {truth}<br>web text: \
             {noise}</h3>{web}{synthetic}</article>",
            truth = escape(&card.truth),
            image = base64(&card.jpeg),
            noise = noise_in_words(card.noise),
            web = paragraph("web", &card.web),
            synthetic = paragraph("synthetic", &card.synthetic),
        );
    }
    page + "</main></body></html>\n"
}

const fn noise_in_words(noise: Noise) -> &'static str {
    match noise {
        Noise::Right => "right",
        Noise::Other => "of another image",
        Noise::HalfTrue => "one attribute wrong",
        Noise::Boilerplate => "boilerplate",
    }
}

fn paragraph(name: &str, text: &Text) -> String {
    format!(
        "<p class=\"{}\"><small>{name} {} {:.2}</small><span class=\"text\">{}</span></p>",
        if text.kept { "kept" } else { "dropped" },
        if text.right { "✓" } else { "✗" },
        text.probability,
        escape(&text.words)
    )
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            c => safe.push(c),
        }
    }
    safe
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(padded);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            let used = digit <= group.len();
            text.push(if used { DIGITS[value as usize] as char } else { '=' });
        }
    }
    text
}

/// The images alone, a row for each kind of noise; under each a mark for the web text (left) and the synthetic text (right),
/// green if kept, red if dropped.
pub(super) fn png(cards: &[Card]) -> Result<Vec<u8>> {
    let rows = cards.chunk_by(|a, b| a.noise == b.noise).collect::<Vec<_>>();
    let (cell_width, cell_height) = (SIDE + GAP, SIDE + MARK + GAP);
    let columns = rows.iter().map(|row| row.len()).max().unwrap_or(0).max(1) as u32;
    let height = GAP + cell_height * rows.len().max(1) as u32;
    let mut sheet = RgbImage::from_pixel(GAP + cell_width * columns, height, PAPER);
    for (row, of_kind) in rows.iter().enumerate() {
        for (column, card) in of_kind.iter().enumerate() {
            let left = GAP + cell_width * column as u32;
            let top = GAP + cell_height * row as u32;
            draw(&mut sheet, card, left, top)?;
        }
    }
    let mut bytes = Vec::new();
    let (width, height) = sheet.dimensions();
    image::codecs::png::PngEncoder::new(&mut bytes).write_image(
        sheet.as_raw(),
        width,
        height,
        image::ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

fn draw(sheet: &mut RgbImage, card: &Card, left: u32, top: u32) -> Result<()> {
    let decoded = jpeg(&card.jpeg)?;
    let small = RgbImage::from_raw(decoded.width, decoded.height, decoded.data);
    let small = small.ok_or_else(|| anyhow!("a decoded image has too few bytes"))?;
    let large = imageops::resize(&small, SIDE, SIDE, imageops::FilterType::Nearest);
    imageops::replace(sheet, &large, i64::from(left), i64::from(top));
    for (number, text) in [&card.web, &card.synthetic].into_iter().enumerate() {
        let colour = if text.kept { KEPT } else { DROPPED };
        let half = SIDE / 2;
        for (x, y) in (0..half - 1).flat_map(|x| (2..MARK).map(move |y| (x, y))) {
            sheet.put_pixel(left + number as u32 * (half + 1) + x, top + SIDE + y, colour);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads_to_groups_of_four() {
        let encoded = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(
            encoded,
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]
        );
    }

    #[test]
    fn texts_cannot_leave_their_place_in_the_page() {
        let text = Text {
            words: "<script>\"'&".into(),
            probability: 0.25,
            kept: false,
            right: false,
        };
        let shown = paragraph("web", &text);
        assert!(
            shown.contains("&lt;script&gt;&quot;&#39;&amp;") && shown.contains("dropped"),
            "{shown}"
        );
    }
}
