//! Line graphs as SVG, drawn on the server.
//!
//! The pages' policy forbids inline styles, so a colour is a presentation attribute that the style sheet knows
//! and replaces (light, dark, forced colours); the values below and those in `ward.css` belong together.

use plotters::chart::ChartBuilder;
use plotters::element::Circle;
use plotters::prelude::{IntoDrawingArea as _, SVGBackend};
use plotters::series::LineSeries;
use plotters::style::{Color as _, IntoFont as _, RGBColor, TRANSPARENT};

use super::text;

const WIDTH: u32 = 420;
const HEIGHT: u32 = 180;
/// `#1F5FA8` and `#A8481F` in the style sheet.
const LINES: [RGBColor; 2] = [RGBColor(0x1f, 0x5f, 0xa8), RGBColor(0xa8, 0x48, 0x1f)];
/// `#4A5560`.
const LABEL: RGBColor = RGBColor(0x4a, 0x55, 0x60);
/// `#C9D1D9`.
const GRID: RGBColor = RGBColor(0xc9, 0xd1, 0xd9);
const GREATEST: f64 = 1e15;

/// Draws `lines` of (days since 1970, value), oldest first, with `spoken` for those who do not see it.
///
/// `None` if there is nothing that can be drawn.
pub(crate) fn svg(lines: &[Vec<(f64, f64)>], spoken: &str) -> Option<String> {
    let points = || lines.iter().flatten().filter(|(day, value)| day.is_finite() && value.is_finite());
    let (first, last) = padded(points().map(|point| point.0), 0.02, 1.0)?;
    let (low, high) = padded(points().map(|point| point.1), 0.10, 1.0)?;
    let mut drawn = String::new();
    {
        let area = SVGBackend::with_string(&mut drawn, (WIDTH, HEIGHT)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(44)
            .build_cartesian_2d(first..last, low..high)
            .ok()?;
        let span = last - first;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style(("sans-serif", 14).into_font().color(&LABEL))
            .x_labels(4)
            .y_labels(4)
            .x_label_formatter(&|days| day_label(*days, span))
            .y_label_formatter(&|value| value_label(*value))
            .draw()
            .ok()?;
        for (line, color) in lines.iter().zip(LINES.into_iter().cycle()) {
            chart.draw_series(LineSeries::new(line.iter().copied(), color.stroke_width(2))).ok()?;
            chart.draw_series(line.iter().map(|point| Circle::new(*point, 3, color.filled()))).ok()?;
        }
        area.present().ok()?;
    }
    // The size is the style sheet's business, and the picture needs a name.
    let (_, inner) = drawn.split_once('>')?;
    let spoken = escaped(spoken);
    Some(format!(
        "<svg class=\"graph\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{spoken}\" \
         xmlns=\"http://www.w3.org/2000/svg\">{inner}"
    ))
}

/// The least and the greatest value with `share` of their distance (at least `least`) around them; `None` if they are
/// beyond anything that is measured. The search for round labels never ends where a distance overflows.
fn padded(values: impl Iterator<Item = f64>, share: f64, least: f64) -> Option<(f64, f64)> {
    let (low, high) = values.fold(None, |range: Option<(f64, f64)>, value| match range {
        Some((low, high)) => Some((low.min(value), high.max(value))),
        None => Some((value, value)),
    })?;
    let margin = ((high - low) * share).max(least * 0.5);
    let range = (low - margin, high + margin);
    (range.0 > -GREATEST && range.1 < GREATEST && range.0 < range.1).then_some(range)
}

fn day_label(days: f64, span: f64) -> String {
    let micros = (days * 86_400_000_000.0).clamp(-6e16, 2.5e17);
    #[expect(clippy::cast_possible_truncation, reason = "clamped to what an i64 holds")]
    let moment = ward_base::Timestamp(micros as i64).to_instant();
    let end = if span > 1000.0 { 7 } else { 10 };
    match span {
        // Within a day or two, the hour matters.
        ..2.5 => text::date(&moment).get(5..16).unwrap_or_default().to_owned(),
        _ => moment.get(..end).unwrap_or_default().to_owned(),
    }
}

fn value_label(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_carries_no_style_and_no_script() {
        let lines = [vec![(19_000.0, 120.0), (19_100.0, 125.5)], vec![(19_000.0, 80.0), (19_100.0, 82.0)]];
        let svg = svg(&lines, "Pressure <\"&'> line").unwrap();
        assert!(svg.starts_with("<svg class=\"graph\" viewBox=\"0 0 420 180\" role=\"img\""), "{svg}");
        assert!(svg.contains("aria-label=\"Pressure &lt;&quot;&amp;'&gt; line\""));
        for forbidden in ["style=", "<style", "<script", "href", "onload", "<?xml"] {
            assert!(!svg.contains(forbidden), "{forbidden}");
        }
        // Every colour is one that the style sheet knows.
        let sheet = include_str!("../../assets/ward.css");
        for part in svg.split('#').skip(1) {
            let color = format!("#{}", &part[..6]);
            assert!(sheet.contains(&color), "{color}");
        }
        assert_eq!(svg.matches("<circle").count(), 4);
        for color in ["#1F5FA8", "#A8481F"] {
            let drawn =
                |line: &&str| line.starts_with("<polyline") && line.contains(&format!("stroke=\"{color}\""));
            assert_eq!(svg.lines().filter(drawn).count(), 1, "{color}: {svg}");
        }
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn odd_numbers_are_survived() {
        assert!(svg(&[], "").is_none());
        assert!(svg(&[vec![(f64::NAN, 1.0)]], "").is_none());
        assert!(svg(&[vec![(1.0, 7.0), (1.0, 7.0)]], "").is_some(), "no spread at all");
        for far in [1e15, 8e307, f64::MAX] {
            assert!(svg(&[vec![(0.0, -far), (1.0, far)]], "").is_none(), "{far}");
            assert!(svg(&[vec![(-far, 0.0), (far, 1.0)]], "").is_none(), "{far}");
        }
        for near in [-8e14, 8e14] {
            assert!(svg(&[vec![(0.0, 8e14), (1.0, near)]], "").is_some());
        }
    }

    #[test]
    fn labels_fit_the_span() {
        assert_eq!(day_label(19_783.5, 2.0), "03-01 12:00");
        assert_eq!(day_label(19_783.5, 100.0), "2024-03-01");
        assert_eq!(day_label(19_783.5, 4000.0), "2024-03");
        assert_eq!((value_label(120.0).as_str(), value_label(36.65).as_str()), ("120", "36.6"));
    }
}
