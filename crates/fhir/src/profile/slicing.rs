//! Slices: which items are in which (<https://hl7.org/fhir/R4/profiling.html#slicing>).

use serde_json::Value;

use super::check::{Checked, Validator};
use super::item::{Frame, Item};
use super::pattern::{self, Agreement};
use super::tree::{Discriminator, DiscriminatorKind, Node, NodeId, Rules, Slicing, Step};
use super::{Definitions, Profile};
use crate::outcome::IssueCode;
use crate::terminology::split_canonical;

/// The name of the slice for all that is in no other.
const DEFAULT_SLICE: &str = "@default";

/// What is said of an item and a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Yes,
    No,
    /// The slice demands nothing there.
    Nothing,
    /// It cannot be found out here.
    Unknown,
}

/// Where a discriminator's path leads, on both sides.
struct Reached<'p, 'v> {
    items: Vec<Item<'v>>,
    nodes: Vec<NodeId>,
    /// What fixed values and patterns above demand there.
    demanded: Vec<(&'p Value, Agreement)>,
    /// The URLs of which an extension has one, because its profile has.
    urls: Vec<&'p str>,
}

impl<'v, D: Definitions> Validator<'v, '_, D> {
    /// The items of a sliced element, each against the slice that it is in, and the slices against what is in them.
    pub(super) fn slices(
        &mut self,
        profile: &Profile,
        sliced: NodeId,
        items: &[&Frame<'_, 'v>],
        above: &Frame<'_, 'v>,
        name: &str,
    ) -> Checked<(), D> {
        let node = profile.node(sliced);
        let discriminators = node.slicing.as_ref().map_or(0, |slicing| slicing.discriminators.len());
        self.budget.spend(node.slices.len() + discriminators)?;
        let slicing = node.slicing.clone().unwrap_or_else(|| unsaid(items));
        let mut members: Vec<Vec<&Frame<'_, 'v>>> = vec![Vec::new(); node.slices.len()];
        let mut unknown = vec![false; node.slices.len()];
        let (mut last, mut is_out_of_order, mut is_after_others, mut outside) = (0, false, false, false);
        for item in items {
            let mut found = None;
            let mut is_unknown = false;
            for (position, (slice_name, slice)) in node.slices.iter().enumerate() {
                if &**slice_name == DEFAULT_SLICE {
                    continue;
                }
                match self.is_in(profile, &slicing, *slice, item)? {
                    Told::Yes => {
                        found = Some(position);
                        break;
                    }
                    Told::No => {}
                    Told::Nothing | Told::Unknown => {
                        is_unknown = true;
                        if let Some(unknown) = unknown.get_mut(position) {
                            *unknown = true;
                        }
                    }
                }
            }
            let default = || node.slices.iter().position(|(name, _)| &**name == DEFAULT_SLICE);
            let found = if is_unknown { found } else { found.or_else(default) };
            match found {
                Some(position) => {
                    is_out_of_order |= position < last;
                    is_after_others |= outside;
                    last = last.max(position);
                    if let Some(members) = members.get_mut(position) {
                        members.push(*item);
                    }
                }
                None if is_unknown => {}
                None => {
                    outside = true;
                    if slicing.rules == Rules::Closed {
                        let words = "is in none of the slices, and the profile allows nothing else";
                        self.wrong(IssueCode::Structure, profile, item, words)?;
                    }
                }
            }
        }
        if is_out_of_order && slicing.ordered {
            let words = "must stand in the order of the slices of the profile";
            self.wrong_below(IssueCode::Structure, profile, above, name, words)?;
        }
        if is_after_others && slicing.rules == Rules::OpenAtEnd {
            let words = "what is in no slice must stand after all that is";
            self.wrong_below(IssueCode::Structure, profile, above, name, words)?;
        }
        if unknown.contains(&true) {
            let words = "could not be told apart, and were not checked";
            self.unchecked(format!("{}: the slices of `{name}` {words}", profile.label))?;
        }
        for (((slice_name, slice), members), unknown) in node.slices.iter().zip(&members).zip(&unknown) {
            let own = profile.node(*slice);
            // What is not known to be in it may be.
            if !*unknown || own.max.is_some_and(|max| members.len() > max) {
                self.cardinality(profile, own, Some(slice_name), members.len(), above, name)?;
            }
            for member in members {
                self.check(profile, *slice, member)?;
            }
            if !own.slices.is_empty() {
                self.slices(profile, *slice, members, above, name)?;
            }
        }
        Ok(())
    }

    /// Whether an item is in a slice.
    fn is_in(
        &mut self,
        profile: &Profile,
        slicing: &Slicing,
        slice: NodeId,
        item: &Frame<'_, 'v>,
    ) -> Checked<Told, D> {
        let mut answer = Told::Nothing;
        for discriminator in &slicing.discriminators {
            match self.discriminated(profile, discriminator, slice, item)? {
                Told::No => return Ok(Told::No),
                Told::Unknown => answer = Told::Unknown,
                Told::Yes if answer == Told::Nothing => answer = Told::Yes,
                Told::Yes | Told::Nothing => {}
            }
        }
        Ok(answer)
    }

    fn discriminated(
        &mut self,
        profile: &Profile,
        discriminator: &Discriminator,
        slice: NodeId,
        item: &Frame<'_, 'v>,
    ) -> Checked<Told, D> {
        self.budget.spend(1)?;
        let mut reached =
            Reached { items: vec![item.item], nodes: vec![slice], demanded: Vec::new(), urls: Vec::new() };
        demands_of(profile, &mut reached);
        for step in &discriminator.steps {
            if !self.step(profile, step, &mut reached)? {
                return Ok(Told::Unknown);
            }
        }
        match discriminator.kind {
            DiscriminatorKind::Value => self.has_value(profile, &reached, item),
            DiscriminatorKind::Exists => {
                let nodes = || reached.nodes.iter().map(|id| profile.node(*id));
                let is_there = !reached.items.is_empty();
                Ok(if nodes().any(|node| node.max == Some(0)) {
                    told(!is_there)
                } else if nodes().any(|node| node.min > 0) {
                    told(is_there)
                } else {
                    Told::Nothing
                })
            }
            DiscriminatorKind::Type => {
                let types: Vec<&str> = reached
                    .nodes
                    .iter()
                    .flat_map(|id| &profile.node(*id).types)
                    .map(|one| &*one.code)
                    .collect();
                if types.is_empty() {
                    return Ok(Told::Nothing);
                }
                self.budget.spend(types.len() * reached.items.len())?;
                Ok(told(reached.items.iter().any(|item| types.iter().any(|code| item.is(code)))))
            }
            DiscriminatorKind::Profile => Ok(Told::Unknown),
        }
    }

    /// Goes one step on both sides; says no where that cannot be done here.
    fn step<'p>(
        &mut self,
        profile: &'p Profile,
        step: &'p Step,
        reached: &mut Reached<'p, 'v>,
    ) -> Checked<bool, D> {
        let (name, url) = match step {
            Step::Resolve => return Ok(false),
            Step::OfType(code) => {
                reached.items.retain(|item| item.is(code));
                let mut nodes = Vec::new();
                for id in &reached.nodes {
                    let node = profile.node(*id);
                    nodes.push(*id);
                    nodes.extend(node.slices.iter().map(|(_, id)| *id));
                }
                self.budget.spend(nodes.len())?;
                nodes.retain(|id| {
                    let types = &profile.node(*id).types;
                    types.is_empty() || types.iter().any(|one| one.code == *code)
                });
                reached.nodes = nodes;
                return Ok(true);
            }
            Step::Child(name) => (&**name, None),
            Step::Extension(url) => ("extension", Some(&**url)),
        };
        let mut items = Vec::new();
        for item in &reached.items {
            self.budget.spend(1 + item.width())?;
            items.extend(item.children(name));
        }
        self.budget.spend(items.len())?;
        let mut nodes = Vec::new();
        for id in &reached.nodes {
            let node = profile.node(*id);
            let child = node.child(name);
            if name == "url" && child.is_none() {
                reached.urls.extend(urls(node));
            }
            let Some(child) = child else { continue };
            let own = profile.node(child);
            self.budget.spend(1 + own.slices.len())?;
            match url {
                // What stands in a slice that must be there, must be there.
                None => {
                    nodes.push(child);
                    let required = own.slices.iter().filter(|(_, id)| profile.node(*id).min > 0);
                    nodes.extend(required.map(|(_, id)| *id));
                }
                Some(url) => {
                    let of_url = own.slices.iter().filter(|(_, id)| {
                        let slice = profile.node(*id);
                        urls(slice).any(|own| own == url) || fixed_url(profile, slice) == Some(url)
                    });
                    nodes.extend(of_url.map(|(_, id)| *id));
                }
            }
        }
        if let Some(url) = url {
            items.retain(|item| item.value.and_then(|value| value.get("url")?.as_str()) == Some(url));
        }
        let mut demanded = Vec::new();
        for (value, agreement) in &reached.demanded {
            let Some(value) = value.get(name) else { continue };
            match value {
                Value::Array(values) => demanded.extend(values.iter().map(|value| (value, *agreement))),
                value => demanded.push((value, *agreement)),
            }
        }
        self.budget.spend(demanded.len())?;
        reached.items = items;
        reached.nodes = nodes;
        reached.demanded = demanded;
        demands_of(profile, reached);
        Ok(true)
    }

    /// Whether the items have all that the slice demands of the values there.
    fn has_value(
        &mut self,
        profile: &Profile,
        reached: &Reached<'_, 'v>,
        frame: &Frame<'_, 'v>,
    ) -> Checked<Told, D> {
        let mut answer = Told::Nothing;
        for (demanded, agreement) in &reached.demanded {
            let mut is_met = false;
            for value in reached.items.iter().filter_map(|item| item.value) {
                is_met = is_met || pattern::agrees(value, demanded, *agreement, &self.budget)?;
            }
            if !is_met {
                return Ok(Told::No);
            }
            answer = Told::Yes;
        }
        if !reached.urls.is_empty() {
            let text = |item: &Item<'v>| item.value.and_then(Value::as_str);
            let is_one = |item: &Item<'v>| text(item).is_some_and(|own| reached.urls.contains(&own));
            self.budget.spend(reached.urls.len() * reached.items.len())?;
            return Ok(told(reached.items.iter().any(is_one)));
        }
        for id in &reached.nodes {
            let node = profile.node(*id);
            // What is not there is not what is demanded.
            if !node.is_demanding {
                continue;
            }
            let mut is_met = false;
            for item in &reached.items {
                is_met = is_met || self.meets(profile, node, item)? == Told::Yes;
            }
            if !is_met {
                return Ok(Told::No);
            }
            answer = Told::Yes;
        }
        if answer != Told::Nothing {
            return Ok(answer);
        }
        let bindings = || reached.nodes.iter().flat_map(|id| &profile.node(*id).bindings);
        for binding in bindings().filter(|binding| binding.is_required) {
            let mut is_bound = Some(false);
            for item in &reached.items {
                is_bound = match (is_bound, self.is_bound(binding, item, frame)?) {
                    (Some(true), _) | (_, Some(true)) => Some(true),
                    (None, _) | (_, None) => None,
                    _ => Some(false),
                };
            }
            match is_bound {
                Some(false) => return Ok(Told::No),
                Some(true) => answer = Told::Yes,
                None => return Ok(Told::Unknown),
            }
        }
        Ok(answer)
    }

    /// Whether an item has the fixed values and patterns at or below an element of the profile, if there are any.
    fn meets(&mut self, profile: &Profile, node: &Node, item: &Item<'v>) -> Checked<Told, D> {
        self.budget.spend(1)?;
        let mut answer = Told::Nothing;
        for (demanded, agreement) in demands(node) {
            let agrees = match item.value {
                Some(value) => pattern::agrees(value, demanded, agreement, &self.budget)?,
                None => false,
            };
            if !agrees {
                return Ok(Told::No);
            }
            answer = Told::Yes;
        }
        for (name, child) in &node.children {
            self.budget.spend(1)?;
            let own = profile.node(*child);
            let required = own.slices.iter().map(|(_, id)| profile.node(*id)).filter(|slice| slice.min > 0);
            for node in std::iter::once(own).chain(required) {
                if !node.is_demanding {
                    continue;
                }
                self.budget.spend(1 + item.width())?;
                let (mut is_met, mut is_there) = (false, false);
                for item in item.children(name) {
                    is_there = true;
                    is_met = is_met || self.meets(profile, node, &item)? == Told::Yes;
                }
                // What need not be there demands nothing if it is not.
                if !is_met && (is_there || node.min > 0) {
                    return Ok(Told::No);
                }
                if is_met {
                    answer = Told::Yes;
                }
            }
        }
        Ok(answer)
    }
}

const fn told(truth: bool) -> Told {
    if truth { Told::Yes } else { Told::No }
}

/// How items are told apart where the profile does not say, as everybody does it: extensions by their URL, and the
/// forms of a choice by their type.
fn unsaid(items: &[&Frame<'_, '_>]) -> Slicing {
    let discriminator = match items.first().map(|frame| &frame.item) {
        Some(item) if item.is("Extension") && !item.is_choice => {
            Some((DiscriminatorKind::Value, vec![Step::Child("url".into())]))
        }
        Some(item) if item.is_choice => Some((DiscriminatorKind::Type, Vec::new())),
        _ => None,
    };
    let discriminators =
        discriminator.map(|(kind, steps)| Discriminator { kind, steps }).into_iter().collect();
    Slicing { discriminators, ordered: false, rules: Rules::Open }
}

fn demands(node: &Node) -> impl Iterator<Item = (&Value, Agreement)> {
    let fixed = node.fixed.as_deref().map(|value| (value, Agreement::Exact));
    let pattern = node.pattern.as_deref().map(|value| (value, Agreement::AtLeast));
    fixed.into_iter().chain(pattern)
}

/// Adds what the elements that were reached demand themselves.
fn demands_of<'p>(profile: &'p Profile, reached: &mut Reached<'p, '_>) {
    let nodes = std::mem::take(&mut reached.nodes);
    for id in &nodes {
        reached.demanded.extend(demands(profile.node(*id)));
    }
    reached.nodes = nodes;
}

/// The URLs of the profiles of an extension.
fn urls(node: &Node) -> impl Iterator<Item = &str> {
    let extensions = node.types.iter().filter(|one| &*one.code == "Extension");
    extensions.flat_map(|one| &one.profiles).map(|canonical| split_canonical(canonical).0)
}

fn fixed_url<'p>(profile: &'p Profile, extension: &Node) -> Option<&'p str> {
    profile.node(extension.child("url")?).fixed.as_deref()?.as_str()
}
