//! FHIRPath against another implementation of it, the npm package `fhirpath`: every expression of a search parameter
//! and every rule of the specification, over the specification's examples (`cargo xtask test` fetches both).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic is how a test fails; the rates are to be read"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use ward_fhir::fhirpath::{Context, Expression, Item, Resolved};
use ward_fhir::{ResourceType, json};

/// So many parts of one example are tried with a rule, and so many parts of all.
const PARTS_EACH: usize = 5;
const PARTS_MAX: usize = 60;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn table(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(repository("crates/fhir/definitions").join(name)).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// The plain examples that are not so large that they tell nothing more.
fn examples() -> Vec<Value> {
    let directory = repository("target/fhir-r4-examples/package");
    let entries = std::fs::read_dir(&directory)
        .unwrap_or_else(|_| panic!("`{}` is missing: run `cargo xtask test`", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut alike: BTreeMap<String, usize> = BTreeMap::new();
    let mut examples = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "json")) {
        let bytes = std::fs::read(file).unwrap();
        if bytes.len() > 200_000 {
            continue;
        }
        let resource = json::parse(&bytes, &json::Limits::default()).unwrap();
        let Some(kind) = resource["resourceType"].as_str() else { continue };
        // Of the definitions there are thousands that are alike.
        let count = alike.entry(kind.to_owned()).or_default();
        *count += 1;
        let definitional = ["CodeSystem", "SearchParameter", "StructureDefinition", "ValueSet"];
        if !definitional.contains(&kind) || *count <= 25 {
            examples.push(resource);
        }
    }
    examples
}

/// One evaluation to compare.
struct Case {
    /// What the expression is part of: a search parameter or a rule.
    name: String,
    /// The position of the example.
    resource: usize,
    /// The path of the type of the part, unless the expression is about the resource.
    base: Option<String>,
    expression: String,
    /// What the other implementation is asked.
    asked: String,
    part: Value,
    found: Option<Vec<Value>>,
}

/// A part and a resource, evaluated as the specification says; nothing if that fails.
fn evaluate(expression: &Expression, focus: Item<'_>, resource: &Value) -> Option<Vec<Value>> {
    // What is referred to is not here; its type is in the reference.
    let typed = |reference: &str| {
        let mut parts = reference.split("/_history/").next()?.rsplit('/');
        let (Some(_), Some(kind)) = (parts.next(), parts.next()) else { return None };
        ResourceType::parse(kind).map(Resolved::Type)
    };
    let context = Context { resolver: Some(&typed), ..Context::of(resource) };
    let found = expression.evaluate_at(focus, &context).ok()?;
    Some(found.iter().map(value).collect())
}

fn value(item: &Item<'_>) -> Value {
    match (item, item.json()) {
        (_, Some(value)) => value.clone(),
        (Item::Boolean(truth), _) => json!(truth),
        (Item::Integer(number), _) => json!(number),
        (_, None) => item.text().map_or(Value::Null, Value::from),
    }
}

/// What both print in the same way: numbers by their value, objects without order, nothing that is null.
fn normal(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("{:?}", number.to_string().parse::<f64>().unwrap()),
        Value::Array(items) => format!("[{}]", items.iter().map(normal).collect::<Vec<_>>().join(",")),
        Value::Object(object) => {
            let sorted: BTreeMap<&String, String> =
                object.iter().map(|(key, value)| (key, normal(value))).collect();
            format!("{sorted:?}")
        }
        other => other.to_string(),
    }
}

fn ask(examples: &[Value], cases: &[Case]) -> Vec<Value> {
    let modules = repository("target/tools/node_modules");
    assert!(
        modules.join("fhirpath").exists(),
        "the npm package `fhirpath` is missing: run `cargo xtask tools`"
    );
    let mut input = json!({"resources": examples}).to_string();
    for case in cases {
        let line = json!([case.resource, case.base, case.part, case.asked]);
        write!(input, "\n{line}").unwrap();
    }
    let mut node = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/fhirpath.js"))
        .arg(modules.canonicalize().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("node cannot be started: {error}"));
    let mut stdin = node.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = node.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "node: {}", output.status);
    let answers: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            json::parse(line.as_bytes(), &json::Limits { bytes: 64 << 20, ..json::Limits::default() })
                .unwrap()
        })
        .collect();
    assert_eq!(answers.len(), cases.len());
    answers
}

/// Tells how many cases agree, and each reason of those that do not with their number and an example. Fails for those
/// without a reason.
fn compare(what: &str, examples: &[Value], cases: &[Case]) {
    let answers = ask(examples, cases);
    let mut classes: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let (mut agreed, mut not_empty) = (0, 0);
    for (case, answer) in cases.iter().zip(&answers) {
        let own = case.found.as_ref().map_or(Value::Null, |found| {
            Value::Array(found.iter().filter(|value| !value.is_null()).cloned().collect())
        });
        not_empty += usize::from(own.as_array().is_some_and(|found| !found.is_empty()));
        if normal(&own) == normal(answer) {
            agreed += 1;
            continue;
        }
        let resource = &examples[case.resource];
        let class = reason(case, answer, resource);
        let class = class.map_or_else(|| format!("unexplained: {}", case.name), str::to_owned);
        let shown = || {
            let place = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"]);
            let mut line = format!("{}: {} at {place}: {} but {}", case.name, case.expression, own, answer);
            line.truncate(line.floor_char_boundary(600));
            line
        };
        classes.entry(class).or_insert_with(|| (0, shown())).0 += 1;
    }
    println!("{what}: {agreed} of {} agree, {not_empty} find something", cases.len());
    for (class, (count, example)) in &classes {
        println!("  {count} × {class}\n      {example}");
    }
    let unexplained: Vec<&String> = classes.keys().filter(|class| class.starts_with("unexplained")).collect();
    assert!(unexplained.is_empty(), "{unexplained:#?}");
    assert!(agreed * 100 > cases.len() * 95, "{agreed} of {}", cases.len());
}

#[test]
fn search_parameters_find_what_another_implementation_finds() {
    let examples = examples();
    let mut cases = Vec::new();
    let mut expressions = 0;
    for line in table("search_parameters.txt") {
        let [base, code, _, _, text, ..] = line.as_slice() else { panic!("{line:?}") };
        if text.is_empty() {
            continue;
        }
        let expression = Expression::compile(text).unwrap_or_else(|error| panic!("{base} {code}: {error}"));
        expressions += 1;
        for (position, resource) in examples.iter().enumerate() {
            let kind = resource["resourceType"].as_str().unwrap();
            // What every resource has is tried with a few.
            if kind != base && !(base.ends_with("Resource") && position % 40 == 0) {
                continue;
            }
            cases.push(Case {
                name: format!("{base} {code}"),
                resource: position,
                base: None,
                expression: text.clone(),
                asked: asked(text),
                part: Value::Null,
                found: evaluate(&expression, Item::resource(resource), resource),
            });
        }
    }
    println!("{expressions} expressions");
    compare("search parameters", &examples, &cases);
}

/// The same for the other implementation, which resolves nothing at once, so that the text of a reference is looked at
/// instead, and refuses `as` of several items, which `ofType` takes.
fn asked(text: &str) -> String {
    let mut out = text.replace(".as(", ".ofType(");
    for (operator, call) in [("resolve() is ", "reference.matches('(^|/)TYPE/')"), (" as ", ".ofType(TYPE)")]
    {
        while let Some((before, rest)) = out.split_once(operator) {
            let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(rest.len());
            let (kind, after) = rest.split_at(end);
            out = format!("{before}{}{after}", call.replace("TYPE", kind));
        }
    }
    out
}

/// Why the two differ where they do.
fn reason(case: &Case, answer: &Value, resource: &Value) -> Option<&'static str> {
    let has = |word: &str| case.expression.contains(word);
    if has("resolve()") && resource.get("contained").is_some() {
        Some("what is contained is not resolved there")
    } else if answer.is_null() && (has("htmlChecks") || has("hasExtension") || has("resolve()")) {
        Some("the function is not there")
    } else if answer.is_null() && has("matches(") {
        Some("the regular expression is refused there: JavaScript wants fewer escapes")
    } else if case.expression.starts_with("Resource.") {
        Some("a path that begins with `Resource` finds nothing there")
    } else if resource["id"] == "decimal" {
        Some("numbers that differ after the eighth digit only are equal there")
    } else if answer.is_null() && has("Quantity) |") {
        Some("units that cannot be compared are an error there")
    } else if case.part.is_string() {
        Some("an evaluation that begins at a primitive finds nothing there")
    } else {
        None
    }
}

#[test]
fn rules_say_what_another_implementation_says() {
    let examples = examples();
    let mut cases = Vec::new();
    let mut untried = Vec::new();
    for line in table("invariants.txt") {
        let [path, element, key, _, text, _] = line.as_slice() else { panic!("{line:?}") };
        let expression = match Expression::compile(text) {
            Ok(expression) => expression,
            // Its regular expression is larger than what is taken from others.
            Err(_) if key == "eld-19" => continue,
            Err(error) => panic!("{path} {key}: {error}"),
        };
        let before = cases.len();
        let (owner, below) =
            path.split_once('.').map_or((path.as_str(), ""), |(owner, below)| (owner, below));
        let is_resource = ResourceType::parse(owner).is_some();
        let mut way = if is_resource { owner.to_owned() } else { format!("descendants().ofType({owner})") };
        if owner == "DomainResource" || owner == "Element" {
            "%resource".clone_into(&mut way);
        }
        for part in [below, element].iter().filter(|part| !part.is_empty()) {
            write!(way, ".{part}").unwrap();
        }
        let way = Expression::compile(&way).unwrap();
        for (position, resource) in examples.iter().enumerate() {
            if cases.len() - before >= PARTS_MAX {
                break;
            }
            let kind = resource["resourceType"].as_str().unwrap();
            if (is_resource && kind != owner) || (owner == "DomainResource" && position % 15 != 0) {
                continue;
            }
            for part in way.evaluate(&Context::of(resource)).unwrap().into_iter().take(PARTS_EACH) {
                let base = match (owner == "DomainResource" || owner == "Element", element.is_empty()) {
                    (true, _) => kind.to_owned(),
                    (false, true) => path.clone(),
                    (false, false) => part.type_name().to_owned(),
                };
                cases.push(Case {
                    name: format!("{path} {key}"),
                    resource: position,
                    part: part.json().cloned().unwrap_or_default(),
                    found: evaluate(&expression, part, resource),
                    base: Some(base),
                    expression: text.clone(),
                    asked: asked(text),
                });
            }
        }
        if cases.len() == before {
            untried.push(key.clone());
        }
    }
    println!("no example has a part for {}", untried.join(" "));
    compare("rules", &examples, &cases);
}
