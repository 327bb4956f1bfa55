//! Vital signs: a table of every measurement, and the series that are drawn from the same rows.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{graph, has_more, resources, text};

/// How many graphs a chart shows at most; the table shows everything.
const GRAPHS_MAX: usize = 12;

/// One measurement: a row of the table.
pub(crate) struct Measurement {
    pub(crate) label: String,
    pub(crate) value: String,
    pub(crate) date: String,
    pub(crate) status: String,
    when: Option<f64>,
    /// Names, numbers and unit of what can be drawn.
    points: Vec<(String, f64)>,
    unit: String,
}

/// One graph with what it says in words.
pub(crate) struct Graph {
    pub(crate) title: String,
    pub(crate) latest: String,
    /// An `<svg>` element; safe to put into a page as it is.
    pub(crate) svg: String,
    /// The names of the lines, if there are several.
    pub(crate) lines: Vec<String>,
}

/// The vital signs of a chart.
pub(crate) struct Vitals {
    /// Newest first.
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) graphs: Vec<Graph>,
    pub(crate) more: bool,
    pub(crate) problem: Option<&'static str>,
}

impl Vitals {
    /// Reads the Observations of a search answer.
    pub(crate) fn new(bundle: &Value, problem: Option<&'static str>) -> Self {
        let mut measurements: Vec<Measurement> = resources(bundle).filter_map(Measurement::new).collect();
        text::newest_first(&mut measurements, |measurement| measurement.when);
        let graphs = graphs(&measurements);
        Self { measurements, graphs, more: has_more(bundle), problem }
    }
}

impl Measurement {
    fn new(resource: &Value) -> Option<Self> {
        if text::at(resource, "/resourceType")? != "Observation" {
            return None;
        }
        let components = text::items(resource, "component");
        let mut points = Vec::new();
        let mut unit = String::new();
        let mut values = Vec::new();
        if let Some(value) = value(resource) {
            points.extend(drawable(resource).map(|number| (String::new(), number)));
            unit = resource.get("valueQuantity").and_then(text::unit).unwrap_or_default().to_owned();
            values.push(value);
        }
        for component in components {
            let Some(value) = value(component) else { continue };
            let name = short_label(component.get("code")).unwrap_or_else(|| "Part".to_owned());
            if let Some(number) = drawable(component) {
                unit = component.get("valueQuantity").and_then(text::unit).unwrap_or_default().to_owned();
                points.push((name.clone(), number));
            }
            values.push(format!("{name} {value}"));
        }
        let date = ["/effectiveDateTime", "/effectivePeriod/start", "/effectiveInstant", "/issued"]
            .iter()
            .find_map(|name| text::at(resource, name));
        let status = text::at(resource, "/status").unwrap_or_default();
        if matches!(status, "entered-in-error" | "cancelled") {
            points.clear();
        }
        Some(Self {
            label: short_label(resource.get("code")).unwrap_or_else(|| "Not named".to_owned()),
            value: text::joined(values).unwrap_or_else(|| "no value".to_owned()),
            date: date.map(text::date).unwrap_or_default(),
            status: text::word(status),
            when: date.and_then(text::days),
            points,
            unit,
        })
    }
}

fn value(holder: &Value) -> Option<String> {
    text::quantity(holder.get("valueQuantity"))
        .or_else(|| text::concept(holder.get("valueCodeableConcept")))
        .or_else(|| text::at(holder, "/valueString").map(str::to_owned))
        .or_else(|| text::number(holder.get("valueInteger")))
        .or_else(|| text::at(holder, "/valueDateTime").map(text::date))
        .or_else(|| text::concept(holder.get("dataAbsentReason")))
}

/// A number that is exactly known: `<5` is no point of a line.
fn drawable(holder: &Value) -> Option<f64> {
    let quantity = holder.get("valueQuantity").filter(|quantity| quantity.get("comparator").is_none())?;
    quantity.get("value")?.as_f64().filter(|number| number.is_finite())
}

/// The everyday name of a vital sign, by its LOINC code; else what the record says.
fn short_label(code: Option<&Value>) -> Option<String> {
    let known = text::items(code?, "coding").iter().find_map(|coding| {
        Some(
            match text::at(coding, "/code")
                .filter(|_| text::at(coding, "/system") == Some("http://loinc.org"))?
            {
                "85354-9" | "55284-4" => "Blood pressure",
                "8480-6" => "systolic",
                "8462-4" => "diastolic",
                "8867-4" => "Heart rate",
                "9279-1" => "Respiratory rate",
                "8310-5" => "Body temperature",
                "2708-6" | "59408-5" => "Oxygen saturation",
                "29463-7" | "3141-9" => "Body weight",
                "8302-2" => "Body height",
                "39156-5" => "Body mass index",
                "9843-4" | "8287-5" => "Head circumference",
                _ => return None,
            },
        )
    });
    known.map(str::to_owned).or_else(|| text::concept(code))
}

/// A graph for each vital sign and unit that was measured at least twice.
fn graphs(measurements: &[Measurement]) -> Vec<Graph> {
    let mut kinds: BTreeMap<(&str, &str), Vec<&Measurement>> = BTreeMap::new();
    for measurement in measurements.iter().filter(|measurement| !measurement.points.is_empty()) {
        kinds.entry((&measurement.label, &measurement.unit)).or_default().push(measurement);
    }
    let mut graphs = Vec::new();
    for ((label, unit), of_kind) in kinds {
        let mut series: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        for measurement in of_kind.iter().rev() {
            let Some(when) = measurement.when else { continue };
            for (name, number) in &measurement.points {
                series.entry(name).or_default().push((when, *number));
            }
        }
        let lines: Vec<String> =
            if series.len() > 1 { series.keys().map(|&name| name.to_owned()).collect() } else { vec![] };
        let points: Vec<Vec<(f64, f64)>> = series.into_values().collect();
        if points.iter().all(|line| line.len() < 2) {
            continue;
        }
        let title = if unit.is_empty() { label.to_owned() } else { format!("{label} ({unit})") };
        let count = of_kind.len();
        let spoken = format!(
            "{title}: line graph of {count} measurements. The table of vital signs has the same numbers."
        );
        let Some(svg) = graph::svg(&points, &spoken) else { continue };
        let latest = of_kind.first().map(|newest| format!("latest {}, {}", newest.value, newest.date));
        graphs.push(Graph { title, latest: latest.unwrap_or_default(), svg, lines });
        if graphs.len() == GRAPHS_MAX {
            break;
        }
    }
    graphs
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pressure(date: &str, systolic: u32, diastolic: u32) -> Value {
        let loinc = |code: &str| json!({"coding": [{"system": "http://loinc.org", "code": code, "display": "long name"}]});
        json!({"resource": {
            "resourceType": "Observation", "status": "final", "code": loinc("85354-9"), "effectiveDateTime": date,
            "component": [
                {"code": loinc("8480-6"), "valueQuantity": {"value": systolic, "unit": "mm[Hg]"}},
                {"code": loinc("8462-4"), "valueQuantity": {"value": diastolic, "unit": "mm[Hg]"}},
            ],
        }})
    }

    #[test]
    fn rows_are_newest_first_and_drawn_from_the_same_numbers() {
        let bundle = json!({"entry": [
            pressure("2024-01-01T08:00:00Z", 121, 81), pressure("2024-03-01T08:00:00Z", 133, 83),
            {"resource": {"resourceType": "Observation", "status": "final", "code": {"text": "Mood"}, "valueString": "calm"}},
        ]});
        let vitals = Vitals::new(&bundle, None);
        let rows: Vec<(&str, &str, &str)> = vitals
            .measurements
            .iter()
            .map(|row| (row.label.as_str(), row.value.as_str(), row.date.as_str()))
            .collect();
        assert_eq!(
            rows,
            [
                ("Blood pressure", "systolic 133 mmHg, diastolic 83 mmHg", "2024-03-01 08:00 UTC"),
                ("Blood pressure", "systolic 121 mmHg, diastolic 81 mmHg", "2024-01-01 08:00 UTC"),
                ("Mood", "calm", ""),
            ]
        );
        assert_eq!(vitals.graphs.len(), 1);
        assert_eq!(vitals.graphs[0].title, "Blood pressure (mmHg)");
        assert_eq!(vitals.graphs[0].lines, ["diastolic", "systolic"]);
        assert_eq!(vitals.graphs[0].svg.matches("<circle").count(), 4, "a dot for each number");
    }

    #[test]
    fn what_was_entered_in_error_is_listed_and_not_drawn() {
        let mut wrong = pressure("2024-01-01", 999, 1);
        wrong["resource"]["status"] = json!("entered-in-error");
        let bundle = json!({"entry": [wrong, pressure("2024-01-02", 120, 80)]});
        let vitals = Vitals::new(&bundle, None);
        assert_eq!(vitals.measurements.len(), 2);
        assert!(vitals.graphs.is_empty(), "one measurement is no line");
    }

    #[test]
    fn a_bound_is_listed_and_not_drawn() {
        let mut bound = pressure("2024-01-03", 120, 80);
        bound["resource"]["component"][0]["valueQuantity"]["comparator"] = json!(">");
        let bundle =
            json!({"entry": [bound, pressure("2024-01-01", 121, 81), pressure("2024-01-02", 122, 82)]});
        let vitals = Vitals::new(&bundle, None);
        assert_eq!(vitals.measurements[0].value, "systolic >120 mmHg, diastolic 80 mmHg");
        assert_eq!(vitals.graphs[0].svg.matches("<circle").count(), 5);
    }
}
