//! From a StructureDefinition to a tree (<https://hl7.org/fhir/R4/structuredefinition.html>).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};

use super::item::ABSTRACT;
use super::tree::{
    Binding, Bound, Constraint, Discriminator, DiscriminatorKind, Kinds, Node, NodeId, ROOT, Rules, Slicing,
    Step, Type,
};
use super::{
    DEMAND_DEPTH_MAX, DEMAND_VALUES_MAX, ELEMENT_DEPTH_MAX, ELEMENTS_MAX, Profile, ProfileError,
    ProfileErrorKind, REGULAR_EXPRESSIONS_MAX, RULES_MAX, is_specified, shortened,
};
use crate::definitions::{self, ElementType};
use crate::fhirpath::Expression;
use crate::outcome::Severity;
use crate::primitive::Primitive;

type Compiled<T> = Result<T, ProfileErrorKind>;

/// What reading an element, and each regular expression, costs of the steps of a validation.
const ELEMENT_STEPS: usize = 20;
const REGULAR_EXPRESSION_STEPS: usize = 20_000;

const BEST_PRACTICE: &str = "http://hl7.org/fhir/StructureDefinition/elementdefinition-bestpractice";
const MAX_VALUE_SET: &str = "http://hl7.org/fhir/StructureDefinition/elementdefinition-maxValueSet";

/// The expressions of the rules of the specification, by their keys.
static SPECIFIED_RULES: LazyLock<HashMap<&'static str, HashSet<&'static str>>> = LazyLock::new(|| {
    let mut rules: HashMap<&'static str, HashSet<&'static str>> = HashMap::new();
    for line in include_str!("../../definitions/invariants.txt").lines() {
        let mut parts = line.split('\t').skip(2);
        if let (Some(key), Some(expression)) = (parts.next(), parts.nth(1)) {
            rules.entry(key).or_default().insert(expression);
        }
    }
    rules
});

/// An element's name, and its slice.
#[derive(Clone, Debug)]
struct Segment<'d> {
    name: &'d str,
    slice: Option<&'d str>,
}

/// Compiles a definition; upon what its base says, if it has a differential only and a base is given.
pub(super) fn compile(definition: &Value, base: Option<&Profile>) -> Result<Profile, ProfileError> {
    let whole = |kind| ProfileError { element: None, kind };
    if text(definition, "resourceType") != Some("StructureDefinition") {
        return Err(whole(ProfileErrorKind::NoDefinition));
    }
    if text(definition, "derivation") != Some("constraint") {
        return Err(whole(ProfileErrorKind::NoConstraint));
    }
    let type_name = text(definition, "type").unwrap_or_default();
    let kinds = kinds_of(type_name).ok_or(whole(ProfileErrorKind::UnknownType))?;
    let elements = |key: &str| {
        definition.get(key).and_then(|view| view.get("element")).and_then(Value::as_array).map(Vec::as_slice)
    };
    let (elements, is_snapshot) = match (elements("snapshot"), elements("differential")) {
        (Some(elements), _) if !elements.is_empty() => (elements, true),
        (_, Some(elements)) => (elements, false),
        _ => return Err(whole(ProfileErrorKind::NoElements)),
    };
    let base = base.filter(|_| !is_snapshot);
    if base.is_some_and(|base| *base.type_name != *type_name && !ABSTRACT.contains(&&*base.type_name)) {
        return Err(whole(ProfileErrorKind::OtherType));
    }
    let url = text(definition, "url").unwrap_or_default();
    let base_definition = text(definition, "baseDefinition").filter(|_| !is_snapshot && base.is_none());
    let mut profile = Profile {
        label: shortened(url.rsplit('/').next().unwrap_or_default()).into(),
        type_name: type_name.into(),
        base: base_definition.filter(|base| !is_specified(base)).map(Into::into),
        nodes: match base {
            Some(base) => base.nodes.clone(),
            None => vec![Node { kinds: kinds.clone(), ..Node::default() }],
        },
        cost: base.map_or(0, |base| base.cost),
    };
    if let Some(root) = profile.nodes.get_mut(ROOT) {
        root.kinds = kinds;
    }
    Compiler { profile: &mut profile, rules: 0, regular_expressions: 0, contents: Vec::new() }
        .all(elements)?;
    Ok(profile)
}

struct Compiler<'p, 'd> {
    profile: &'p mut Profile,
    rules: usize,
    regular_expressions: usize,
    /// The elements that have their children from another, and its id.
    contents: Vec<(NodeId, &'d str)>,
}

impl<'d> Compiler<'_, 'd> {
    fn all(&mut self, elements: &'d [Value]) -> Result<(), ProfileError> {
        if elements.len() > ELEMENTS_MAX {
            return Err(ProfileError { element: None, kind: ProfileErrorKind::TooManyElements });
        }
        // What stands at each path last: the children of an element follow it.
        let mut last: HashMap<&str, Vec<Segment<'d>>> = HashMap::new();
        for element in elements {
            let path = text(element, "path").unwrap_or_default();
            let named = |kind| ProfileError {
                element: Some(shortened(text(element, "id").unwrap_or(path)).to_owned()),
                kind,
            };
            let segments = segments(element, path, &last).map_err(named)?;
            let node = self.insert(&segments).map_err(named)?;
            self.apply(node, element).map_err(named)?;
            last.insert(path, segments);
        }
        for (node, id) in std::mem::take(&mut self.contents) {
            let found = self.find(id);
            if let Some(node) = self.profile.nodes.get_mut(node) {
                node.content = found;
            }
        }
        self.profile.cost += elements.len() * ELEMENT_STEPS;
        mark_demanding(&mut self.profile.nodes);
        Ok(())
    }

    fn node(&mut self, id: NodeId) -> Compiled<&mut Node> {
        self.profile.nodes.get_mut(id).ok_or(ProfileErrorKind::Malformed)
    }

    fn add(&mut self, node: Node) -> Compiled<NodeId> {
        if self.profile.nodes.len() > 2 * ELEMENTS_MAX {
            return Err(ProfileErrorKind::TooManyElements);
        }
        self.profile.nodes.push(node);
        Ok(self.profile.nodes.len() - 1)
    }

    /// The place of an element, which is made with all above it unless it is there.
    fn insert(&mut self, segments: &[Segment<'_>]) -> Compiled<NodeId> {
        let mut place = ROOT;
        let (first, below) = segments.split_first().ok_or(ProfileErrorKind::Malformed)?;
        if first.name != &*self.profile.type_name || first.slice.is_some() {
            return Err(ProfileErrorKind::UnknownElement);
        }
        for segment in below {
            let parent = place;
            let (child, form) = self.child(parent, segment.name)?;
            place = match segment.slice.or(form) {
                Some(slice) => self.slice(parent, child, slice)?,
                None => child,
            };
        }
        Ok(place)
    }

    /// The child called `name`, and its form if the name says of which type it is, as `valueQuantity` does.
    fn child<'n>(&mut self, parent: NodeId, name: &'n str) -> Compiled<(NodeId, Option<&'n str>)> {
        let written = name.strip_suffix("[x]").unwrap_or(name);
        if let Some(known) = self.node(parent)?.child(written) {
            return Ok((known, None));
        }
        let (mut own, mut form) = (None, None);
        let kinds = match &self.node(parent)?.kinds {
            Kinds::Any => Kinds::Any,
            Kinds::Known(definitions) => {
                let mut below: Vec<&'static definitions::Definition> = Vec::new();
                let mut any = false;
                for definition in definitions {
                    let named = match definition.number(written) {
                        Some(number) => Some((number, None)),
                        None => definition
                            .element(name)
                            .filter(|element| element.choice)
                            .map(|element| (element.number, Some(name))),
                    };
                    let Some((number, as_form)) = named else { continue };
                    (own, form) = (Some(definition.name(number)), as_form);
                    for element in definition.elements().iter().filter(|element| element.number == number) {
                        match element.of {
                            ElementType::Resource => any = true,
                            ElementType::Complex(id) => below.push(definitions::definition(id)),
                            _ => below.push(definitions::element()),
                        }
                    }
                }
                if own.is_none() {
                    return Err(ProfileErrorKind::UnknownElement);
                }
                below.sort_by_key(|definition| definition.path);
                below.dedup_by_key(|definition| definition.path);
                if any { Kinds::Any } else { Kinds::Known(below) }
            }
        };
        let own = own.unwrap_or(written);
        if let Some(known) = self.node(parent)?.child(own) {
            return Ok((known, form));
        }
        let child = self.add(Node { kinds, ..Node::default() })?;
        self.node(parent)?.children.push((own.into(), child));
        Ok((child, form))
    }

    /// The slice of `sliced`, a child of `parent`. Slices of slices are named `slice/slice`.
    fn slice(&mut self, parent: NodeId, sliced: NodeId, name: &str) -> Compiled<NodeId> {
        if is_nested_too_deep(name) {
            return Err(ProfileErrorKind::TooDeep);
        }
        if let Some(known) = self.node(sliced)?.slice(name) {
            return Ok(known);
        }
        if let Some((outer, inner)) = name.rsplit_once('/')
            && let Some(outer) = self.find_slice(sliced, outer)
        {
            return self.slice(parent, outer, inner);
        }
        let types = self.types_of_form(parent, sliced, name)?;
        let kinds = self.node(sliced)?.kinds.clone();
        let slice = self.add(Node { kinds, types, ..Node::default() })?;
        self.node(sliced)?.slices.push((name.into(), slice));
        Ok(slice)
    }

    fn find_slice(&self, sliced: NodeId, name: &str) -> Option<NodeId> {
        let node = self.profile.nodes.get(sliced)?;
        node.slice(name).or_else(|| {
            let (outer, inner) = name.rsplit_once('/')?;
            self.find_slice(self.find_slice(sliced, outer)?, inner)
        })
    }

    /// The type that the name of a slice of a choice says, such as `valueQuantity`.
    fn types_of_form(&mut self, parent: NodeId, sliced: NodeId, name: &str) -> Compiled<Vec<Type>> {
        let parent = self.node(parent)?;
        let own = parent.children.iter().find(|(_, id)| *id == sliced).map(|(own, _)| own.clone());
        let (Some(own), Kinds::Known(definitions)) = (own, &parent.kinds) else { return Ok(Vec::new()) };
        let is_form = definitions
            .iter()
            .filter_map(|definition| definition.element(name))
            .any(|element| element.choice && element.name == &*own);
        let Some(kind) = name.strip_prefix(&*own).filter(|_| is_form) else { return Ok(Vec::new()) };
        let mut letters = kind.chars();
        let primitive: String =
            letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect();
        let code = if Primitive::parse(&primitive).is_some() { primitive.into() } else { kind.into() };
        Ok(vec![Type { code, profiles: Vec::new(), targets: Vec::new() }])
    }

    /// The element with this id, if the profile has it.
    fn find(&self, id: &str) -> Option<NodeId> {
        let mut place = ROOT;
        for segment in id.split('.').skip(1) {
            let (name, slice) = split_slice(segment);
            let name = name.strip_suffix("[x]").unwrap_or(name);
            place = self.profile.nodes.get(place)?.child(name)?;
            if let Some(slice) = slice.filter(|slice| !is_nested_too_deep(slice)) {
                place = self.find_slice(place, slice)?;
            }
        }
        Some(place)
    }

    /// Takes over what an element says; what it does not say stays.
    fn apply(&mut self, id: NodeId, element: &'d Value) -> Compiled<()> {
        let object = element.as_object().ok_or(ProfileErrorKind::Malformed)?;
        let bindings = bindings(element)?;
        let constraints = self.constraints(element)?;
        if let Some(reference) = text(element, "contentReference") {
            let content = reference.split_once('#').ok_or(ProfileErrorKind::Malformed)?.1;
            self.contents.push((id, content));
        }
        let node = self.node(id)?;
        if let Some(min) = element.get("min") {
            node.min = number(min)?;
        }
        if let Some(max) = element.get("max") {
            let max = max.as_str().ok_or(ProfileErrorKind::Malformed)?;
            node.max = match max {
                "*" => None,
                digits => Some(digits.parse().map_err(|_| ProfileErrorKind::Malformed)?),
            };
        }
        if let Some(length) = element.get("maxLength") {
            node.max_length = Some(number(length)?);
        }
        if element.get("type").is_some() {
            node.types = types(element)?;
        }
        if let Some(slicing) = element.get("slicing") {
            node.slicing = Some(read_slicing(slicing)?);
        }
        if let Some(bindings) = bindings {
            node.bindings = bindings;
        }
        for constraint in constraints {
            node.constraints.retain(|known| known.key != constraint.key);
            node.constraints.push(Arc::new(constraint));
        }
        demands(object, node)
    }

    /// The rules that the specification does not state itself. Recommendations are left out, as they are there.
    fn constraints(&mut self, element: &Value) -> Compiled<Vec<Constraint>> {
        let mut all = Vec::new();
        for constraint in list(element, "constraint")? {
            let key = text(constraint, "key").unwrap_or_default();
            let Some(expression) = text(constraint, "expression") else { continue };
            let human = text(constraint, "human").unwrap_or_default();
            let is_recommendation = list(constraint, "extension")?.iter().any(|extension| {
                text(extension, "url") == Some(BEST_PRACTICE)
                    && extension.get("valueBoolean") == Some(&true.into())
            });
            if is_recommendation || key == "dom-6" || is_specified_rule(constraint, key, expression) {
                continue;
            }
            self.rules += 1;
            self.regular_expressions += expression.matches("atches").count();
            if self.rules > RULES_MAX || self.regular_expressions > REGULAR_EXPRESSIONS_MAX {
                return Err(ProfileErrorKind::TooManyRules);
            }
            self.profile.cost +=
                expression.len() + REGULAR_EXPRESSION_STEPS * expression.matches("atches").count();
            let severity = match text(constraint, "severity") {
                Some("error") => Severity::Error,
                Some("warning") => Severity::Warning,
                _ => return Err(ProfileErrorKind::Malformed),
            };
            all.push(Constraint {
                key: shortened(key).into(),
                severity,
                human: shortened(human).into(),
                expression: Expression::compile(expression).map_err(ProfileErrorKind::Rule)?,
            });
        }
        Ok(all)
    }
}

/// Says of each element whether there is a fixed value or a pattern at it, or below in what is no slice or one that
/// must be there.
fn mark_demanding(nodes: &mut [Node]) {
    // As an element of its own, and as a slice.
    let mut known = vec![(false, false); nodes.len()];
    // What is below was added later.
    for (id, node) in nodes.iter_mut().enumerate().rev() {
        let told = |id: NodeId| known.get(id).copied().unwrap_or_default();
        let below = node.children.iter().any(|(_, child)| told(*child).0);
        node.is_demanding = node.fixed.is_some() || node.pattern.is_some() || below;
        let by_slices = node.slices.iter().any(|(_, slice)| told(*slice).1);
        if let Some(known) = known.get_mut(id) {
            *known = (node.is_demanding || by_slices, node.is_demanding && node.min > 0);
        }
    }
}

/// Whether validation against the specification looks at this rule.
fn is_specified_rule(constraint: &Value, key: &str, expression: &str) -> bool {
    let Some(known) = SPECIFIED_RULES.get(key) else { return false };
    let words = expression.split_whitespace().collect::<Vec<_>>().join(" ");
    known.contains(&*words) || text(constraint, "source").is_some_and(is_specified)
}

/// What stands below something of the type called `name`.
fn kinds_of(name: &str) -> Option<Kinds> {
    if matches!(name, "Resource" | "DomainResource") {
        return Some(Kinds::Any);
    }
    if Primitive::parse(name).is_some() {
        return Some(Kinds::Known(vec![definitions::element()]));
    }
    definitions::by_path(name).filter(|_| !name.contains('.')).map(|one| Kinds::Known(vec![one]))
}

/// An element's way from the root: by its id where that agrees with its path, else by what came before.
fn segments<'d>(
    element: &'d Value,
    path: &'d str,
    last: &HashMap<&str, Vec<Segment<'d>>>,
) -> Compiled<Vec<Segment<'d>>> {
    let names: Vec<&str> = path.split('.').collect();
    if names.len() > ELEMENT_DEPTH_MAX {
        return Err(ProfileErrorKind::TooDeep);
    }
    if names.iter().any(|name| name.is_empty()) {
        return Err(ProfileErrorKind::Malformed);
    }
    let own: Vec<Segment<'d>> = text(element, "id").map_or_else(Vec::new, |id| {
        let split = id.split('.').take(ELEMENT_DEPTH_MAX + 1).map(split_slice);
        split.map(|(name, slice)| Segment { name, slice }).collect()
    });
    let agrees = own.len() == names.len()
        && own.iter().zip(&names).all(|(segment, name)| {
            let choice = segment.name.strip_suffix("[x]");
            segment.name == *name || choice.is_some_and(|choice| name.starts_with(choice))
        });
    let mut segments = if agrees {
        own
    } else {
        let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
        let mut segments = last.get(parent).cloned().unwrap_or_default();
        let written = names.iter().skip(segments.len());
        segments.extend(written.map(|name| Segment { name, slice: None }));
        segments
    };
    if let (Some(slice), Some(segment)) = (text(element, "sliceName"), segments.last_mut()) {
        segment.slice = Some(slice);
    }
    Ok(segments)
}

/// Whether a slice has too many others around it.
fn is_nested_too_deep(name: &str) -> bool {
    name.matches('/').count() > ELEMENT_DEPTH_MAX
}

fn split_slice(segment: &str) -> (&str, Option<&str>) {
    match segment.split_once(':') {
        Some((name, slice)) => (name, Some(slice)),
        None => (segment, None),
    }
}

/// `fixed[x]`, `pattern[x]`, `minValue[x]` and `maxValue[x]`.
fn demands(object: &Map<String, Value>, node: &mut Node) -> Compiled<()> {
    let typed = |key: &str, prefix: &str| -> Option<String> {
        let kind = key.strip_prefix(prefix)?;
        kind.starts_with(|first: char| first.is_ascii_uppercase()).then(|| kind.to_owned())
    };
    for (key, value) in object {
        let bound = match typed(key, "minValue") {
            Some(kind) => Some((true, kind)),
            None => typed(key, "maxValue").map(|kind| (false, kind)),
        };
        let (is_fixed, is_pattern) = (typed(key, "fixed").is_some(), typed(key, "pattern").is_some());
        if !is_fixed && !is_pattern && bound.is_none() {
            continue;
        }
        let mut values_left = DEMAND_VALUES_MAX;
        if !is_small(value, DEMAND_DEPTH_MAX, &mut values_left) {
            return Err(ProfileErrorKind::TooLarge);
        }
        if is_fixed {
            node.fixed = Some(Arc::new(value.clone()));
        } else if is_pattern {
            node.pattern = Some(Arc::new(value.clone()));
        }
        if let Some((is_least, kind)) = bound {
            node.bounds.retain(|known| known.is_least != is_least);
            let mut holder = json!({"url": "bound"});
            holder[format!("value{kind}")] = value.clone();
            node.bounds.push(Bound { is_least, holder: Arc::new(holder) });
        }
    }
    Ok(())
}

fn is_small(value: &Value, depth_left: usize, values_left: &mut usize) -> bool {
    let (Some(depth_left), Some(left)) = (depth_left.checked_sub(1), values_left.checked_sub(1)) else {
        return false;
    };
    *values_left = left;
    match value {
        Value::Array(items) => items.iter().all(|item| is_small(item, depth_left, values_left)),
        Value::Object(object) => object.values().all(|value| is_small(value, depth_left, values_left)),
        _ => true,
    }
}

fn types(element: &Value) -> Compiled<Vec<Type>> {
    let mut types = Vec::new();
    for one in list(element, "type")? {
        let code = text(one, "code").ok_or(ProfileErrorKind::Malformed)?;
        // Ids and the like, of which the specification says what they are.
        if code.starts_with("http://hl7.org/fhirpath/") {
            continue;
        }
        if kinds_of(code).is_none() && !ABSTRACT.contains(&code) && code != "xhtml" {
            return Err(ProfileErrorKind::UnknownType);
        }
        let canonicals = |key: &str| -> Compiled<Vec<Box<str>>> {
            let all = list(one, key)?.iter().map(|canonical| canonical.as_str().map(Into::into));
            all.collect::<Option<_>>().ok_or(ProfileErrorKind::Malformed)
        };
        types.push(Type {
            code: code.into(),
            profiles: canonicals("profile")?,
            targets: canonicals("targetProfile")?,
        });
    }
    Ok(types)
}

/// The bindings that oblige somebody to something.
fn bindings(element: &Value) -> Compiled<Option<Vec<Binding>>> {
    let Some(binding) = element.get("binding") else { return Ok(None) };
    let mut bindings = Vec::new();
    let strength = text(binding, "strength").ok_or(ProfileErrorKind::Malformed)?;
    if matches!(strength, "required" | "extensible") {
        let value_set = text(binding, "valueSet").map(Into::into);
        bindings.push(Binding { is_required: strength == "required", value_set });
    }
    for extension in list(binding, "extension")? {
        if text(extension, "url") == Some(MAX_VALUE_SET) {
            let set = text(extension, "valueCanonical").or_else(|| text(extension, "valueUri"));
            bindings.push(Binding { is_required: true, value_set: set.map(Into::into) });
        }
    }
    Ok(Some(bindings))
}

fn read_slicing(slicing: &Value) -> Compiled<Slicing> {
    let mut discriminators = Vec::new();
    for discriminator in list(slicing, "discriminator")? {
        let kind = match text(discriminator, "type") {
            Some("value" | "pattern") => DiscriminatorKind::Value,
            Some("exists") => DiscriminatorKind::Exists,
            Some("type") => DiscriminatorKind::Type,
            Some("profile") => DiscriminatorKind::Profile,
            _ => return Err(ProfileErrorKind::Discriminator),
        };
        let path = text(discriminator, "path").unwrap_or_default();
        let steps = steps(path).ok_or(ProfileErrorKind::Discriminator)?;
        discriminators.push(Discriminator { kind, steps });
    }
    let rules = match text(slicing, "rules") {
        Some("open") | None => Rules::Open,
        Some("openAtEnd") => Rules::OpenAtEnd,
        Some("closed") => Rules::Closed,
        Some(_) => return Err(ProfileErrorKind::Malformed),
    };
    let ordered = slicing.get("ordered").and_then(Value::as_bool) == Some(true);
    Ok(Slicing { discriminators, ordered, rules })
}

/// The steps of a discriminator's path.
fn steps(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path.trim();
    if let Some(after) = rest.strip_prefix("$this") {
        if after.is_empty() {
            return Some(steps);
        }
        rest = after.strip_prefix('.')?;
    }
    loop {
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if name.is_empty() || steps.len() >= ELEMENT_DEPTH_MAX {
            return None;
        }
        let after = match after.strip_prefix('(') {
            Some(call) => {
                let (argument, after) = call.split_once(')')?;
                let quoted = || {
                    let open = argument.strip_prefix(['\'', '"'])?;
                    open.strip_suffix(['\'', '"'])
                };
                steps.push(match name {
                    "resolve" if argument.is_empty() => Step::Resolve,
                    "ofType" | "as" => Step::OfType(argument.trim().into()),
                    "extension" => Step::Extension(quoted()?.into()),
                    _ => return None,
                });
                after
            }
            None => {
                steps.push(Step::Child(name.into()));
                after.strip_prefix("[x]").unwrap_or(after)
            }
        };
        if after.is_empty() {
            return Some(steps);
        }
        rest = after.strip_prefix('.')?;
    }
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str)
}

/// The items at `key`; it is malformed if it is there and no array.
fn list<'v>(value: &'v Value, key: &str) -> Compiled<&'v [Value]> {
    match value.get(key) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(ProfileErrorKind::Malformed),
    }
}

fn number(value: &Value) -> Compiled<usize> {
    let number = value.as_u64().ok_or(ProfileErrorKind::Malformed)?;
    usize::try_from(number).map_err(|_| ProfileErrorKind::Malformed)
}
