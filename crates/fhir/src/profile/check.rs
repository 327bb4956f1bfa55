//! The walk through a resource along the tree of a profile.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::item::{Frame, Item};
use super::library::{Known, Library, Shared, Unread};
use super::pattern::{self, Agreement};
use super::tree::{Constraint, Node, NodeId, ROOT, Type};
use super::{
    DEPTH_MAX, Definitions, ISSUES_MAX, KINDS_OF_QUANTITY, Profile, STEPS_MAX, is_specified, shortened,
    specified,
};
use crate::ResourceType;
use crate::fhirpath::{self, Budget, Context, EvaluateError, Expression};
use crate::outcome::{Issue, IssueCode, Severity};
use crate::terminology::{Expansion, Fault, Terminology};

/// What keeps a validation from going on.
pub(super) enum Stop<E> {
    /// There are enough issues.
    Enough,
    TooCostly,
    Definitions(E),
}

impl<E> From<EvaluateError> for Stop<E> {
    fn from(_: EvaluateError) -> Self {
        Self::TooCostly
    }
}

pub(super) type Checked<T, D> = Result<T, Stop<<D as crate::terminology::Definitions>::Error>>;

/// Issues as they are found, each once.
struct Found {
    errors: Vec<Issue>,
    others: Vec<Issue>,
    errors_max: usize,
}

impl Found {
    const fn new(errors_max: usize) -> Self {
        Self { errors: Vec::new(), others: Vec::new(), errors_max }
    }
}

pub(super) struct Validator<'v, 'd, D: Definitions> {
    found: Found,
    pub(super) budget: Budget,
    library: Library<'d, D>,
    pub(super) terminology: Terminology<Shared<'d, D>>,
    /// The value sets that were worked out, or why not.
    pub(super) expansions: HashMap<Box<str>, Result<Arc<Expansion>, Fault>>,
    /// Paths of one step, by its name.
    paths: HashMap<&'static str, Arc<Expression>>,
    resource: &'v Value,
    top: Item<'v>,
}

impl<'v, 'd, D: Definitions> Validator<'v, 'd, D> {
    /// Nothing if it is no resource.
    pub(super) fn new(resource: &'v Value, definitions: &'d RefCell<&'d mut D>) -> Option<Self> {
        Some(Self {
            found: Found::new(ISSUES_MAX),
            budget: Budget::of(STEPS_MAX),
            library: Library::new(definitions),
            terminology: Terminology::new(Shared(definitions)),
            expansions: HashMap::new(),
            paths: HashMap::new(),
            resource,
            top: Item::resource(resource)?,
        })
    }

    /// Looks at all profiles, as far as the budget goes.
    pub(super) fn all(&mut self, profiles: &[&str]) -> Result<(), D::Error> {
        let frame = Frame::top(self.top, self.resource);
        for (position, canonical) in profiles.iter().enumerate() {
            match self.asked(canonical, position, &frame) {
                Ok(()) => {}
                Err(Stop::Enough) => return Ok(()),
                Err(Stop::Definitions(error)) => return Err(error),
                Err(Stop::TooCostly) => {
                    let words = "checking the profiles takes more work than is accepted";
                    self.found.errors.truncate(ISSUES_MAX - 1);
                    self.found.errors.push(Issue::error(IssueCode::TooCostly, words));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// What was found: errors first, and no more than is told.
    pub(super) fn issues(self) -> Vec<Issue> {
        let mut issues = self.found.errors;
        issues.extend(self.found.others);
        if issues.len() >= ISSUES_MAX {
            issues.truncate(ISSUES_MAX - 1);
            issues.push(Issue::warning(IssueCode::Incomplete, "there may be more; no more is told"));
        }
        issues
    }

    /// A profile that the caller names. The name may have come with the resource, so it is not repeated.
    fn asked(&mut self, canonical: &str, position: usize, frame: &Frame<'_, 'v>) -> Checked<(), D> {
        let profiles =
            self.resource.get("meta").and_then(|meta| meta.get("profile")).and_then(Value::as_array);
        self.budget.spend(profiles.map_or(0, Vec::len))?;
        let stated = profiles.and_then(|all| all.iter().position(|one| one.as_str() == Some(canonical)));
        let place = match stated {
            Some(index) => format!("{}.meta.profile[{index}]", frame.name),
            None => frame.name.to_owned(),
        };
        let which = format!("profile {} of those asked for", position + 1);
        if is_specified(canonical) {
            if !specified(canonical).is_some_and(|name| frame.item.is(name)) {
                let words = format!("{which} is for another type of resource");
                self.push(Issue::error(IssueCode::Invalid, words).at(place))?;
            }
            return Ok(());
        }
        match self.profile(canonical)? {
            Known::Profile(profile) if frame.item.is(&profile.type_name) => self.check(&profile, ROOT, frame),
            Known::Profile(_) => {
                let words = format!("{which} is for another type of resource");
                self.push(Issue::error(IssueCode::Invalid, words).at(place))
            }
            Known::Absent => {
                let words = format!("{which} is not loaded: store its StructureDefinition");
                self.push(Issue::error(IssueCode::NotFound, words).at(place))
            }
            Known::Unusable(error) => {
                let words = format!("{which} cannot be used: {error}");
                self.push(Issue::error(IssueCode::NotSupported, words).at(place))
            }
        }
    }

    fn profile(&mut self, canonical: &str) -> Checked<Known, D> {
        let (known, cost) = self.library.profile(canonical).map_err(unread)?;
        self.budget.spend(cost)?;
        Ok(known)
    }

    fn push(&mut self, issue: Issue) -> Checked<(), D> {
        let known = if issue.is_error() { &mut self.found.errors } else { &mut self.found.others };
        let is_error = issue.is_error();
        if known.len() < ISSUES_MAX && !known.contains(&issue) {
            known.push(issue);
        }
        if is_error && self.found.errors.len() >= self.found.errors_max { Err(Stop::Enough) } else { Ok(()) }
    }

    /// An error of the item.
    pub(super) fn wrong(
        &mut self,
        code: IssueCode,
        profile: &Profile,
        frame: &Frame<'_, 'v>,
        words: &str,
    ) -> Checked<(), D> {
        self.push(Issue::error(code, format!("{}: {words}", profile.label)).at(frame.place(None)))
    }

    /// An error of what stands, or should stand, below the item.
    pub(super) fn wrong_below(
        &mut self,
        code: IssueCode,
        profile: &Profile,
        above: &Frame<'_, 'v>,
        name: &str,
        words: &str,
    ) -> Checked<(), D> {
        self.push(Issue::error(code, format!("{}: {words}", profile.label)).at(above.place(Some(name))))
    }

    pub(super) fn warning(
        &mut self,
        code: IssueCode,
        profile: &Profile,
        frame: &Frame<'_, 'v>,
        words: &str,
    ) -> Checked<(), D> {
        self.push(Issue::warning(code, format!("{}: {words}", profile.label)).at(frame.place(None)))
    }

    /// Something that nobody can say, once for all places.
    pub(super) fn unchecked(&mut self, words: String) -> Checked<(), D> {
        let issue = Issue { severity: Severity::Information, ..Issue::error(IssueCode::Incomplete, words) };
        self.push(issue)
    }

    /// An item against what a profile says of it.
    pub(super) fn check(&mut self, profile: &Profile, id: NodeId, frame: &Frame<'_, 'v>) -> Checked<(), D> {
        let node = profile.node(id);
        self.budget.spend(1 + node.types.len())?;
        if frame.depth > DEPTH_MAX {
            return self.wrong(IssueCode::TooCostly, profile, frame, "nested deeper than is accepted");
        }
        let item = &frame.item;
        if id != ROOT
            && item.is_choice
            && !node.types.is_empty()
            && !node.types.iter().any(|one| item.is(&one.code))
        {
            let allowed: Vec<&str> = node.types.iter().take(16).map(|one| &*one.code).collect();
            let words = format!("must be of type {}", allowed.join(" or "));
            return self.wrong(IssueCode::Structure, profile, frame, &words);
        }
        self.value(profile, node, frame)?;
        for binding in &node.bindings {
            self.binding(profile, binding, frame)?;
        }
        for constraint in &node.constraints {
            self.constraint(profile, constraint, frame)?;
        }
        if id != ROOT {
            self.types(profile, node, frame)?;
        }
        self.children(profile, id, frame)
    }

    /// What the profile says of the value itself.
    fn value(&mut self, profile: &Profile, node: &Node, frame: &Frame<'_, 'v>) -> Checked<(), D> {
        let demands = [(&node.fixed, Agreement::Exact), (&node.pattern, Agreement::AtLeast)];
        for (demanded, agreement) in demands {
            let Some(demanded) = demanded else { continue };
            let agrees = match frame.item.value {
                Some(value) => pattern::agrees(value, demanded, agreement, &self.budget)?,
                None => false,
            };
            if !agrees {
                let words = match agreement {
                    Agreement::Exact => "must have the value that the profile fixes",
                    Agreement::AtLeast => "must have what the pattern of the profile has",
                };
                self.wrong(IssueCode::Value, profile, frame, words)?;
            }
        }
        if let (Some(most), Some(Value::String(text))) = (node.max_length, frame.item.value) {
            self.budget.spend(text.len() / 64)?;
            if text.len() > most && text.chars().count() > most {
                let words = format!("must have no more than {most} characters");
                self.wrong(IssueCode::Value, profile, frame, &words)?;
            }
        }
        for bound in &node.bounds {
            static LEAST: LazyLock<Option<Expression>> =
                LazyLock::new(|| Expression::compile("$this >= %bound.value").ok());
            static MOST: LazyLock<Option<Expression>> =
                LazyLock::new(|| Expression::compile("$this <= %bound.value").ok());
            let expression = if bound.is_least { &*LEAST } else { &*MOST };
            let extension = crate::definitions::by_path("Extension");
            let (Some(expression), Some(extension)) = (expression, extension) else { continue };
            let path = self.path(frame);
            let Some(focus) = self.focus(path.as_deref(), frame)? else { continue };
            let variables = [("bound", vec![fhirpath::Item::complex(&bound.holder, extension)])];
            let context = Context { variables: &variables, ..Context::of(frame.resource) };
            match expression.says_within(focus, &context, &self.budget) {
                Ok(Some(false)) => {
                    let words = if bound.is_least { "must not be less" } else { "must not be more" };
                    let words = format!("{words} than the profile allows");
                    self.wrong(IssueCode::Value, profile, frame, &words)?;
                }
                Ok(Some(true)) => {}
                Err(EvaluateError::TooCostly | EvaluateError::TooDeep) => return Err(Stop::TooCostly),
                Ok(None) | Err(_) => {
                    let words = "could not be compared with the least or greatest value of the profile";
                    self.unchecked(format!("{}: {}: {words}", profile.label, frame.name))?;
                }
            }
        }
        Ok(())
    }

    /// The way to a primitive from what it stands in; FHIRPath finds it there only. Nothing for an object.
    fn path(&mut self, frame: &Frame<'_, 'v>) -> Option<Arc<Expression>> {
        if frame.item.focus().is_some() {
            return None;
        }
        if let Some(known) = self.paths.get(frame.name) {
            return Some(Arc::clone(known));
        }
        let compiled = Arc::new(Expression::compile(&format!("`{}`", frame.name)).ok()?);
        self.paths.insert(frame.name, Arc::clone(&compiled));
        Some(compiled)
    }

    /// The item as FHIRPath sees it.
    fn focus<'s>(
        &self,
        path: Option<&'s Expression>,
        frame: &Frame<'_, 's>,
    ) -> Checked<Option<fhirpath::Item<'s>>, D> {
        let Some(path) = path else { return Ok(frame.item.focus()) };
        let Some(above) = frame.parent.and_then(|parent| parent.item.focus()) else { return Ok(None) };
        let found = path.evaluate_within(above, &Context::of(frame.resource), &self.budget)?;
        Ok(found.into_iter().nth(frame.item.position))
    }

    fn constraint(
        &mut self,
        profile: &Profile,
        constraint: &Constraint,
        frame: &Frame<'_, 'v>,
    ) -> Checked<(), D> {
        let path = self.path(frame);
        let Some(focus) = self.focus(path.as_deref(), frame)? else {
            return self.unchecked(format!("{}: {} could not be checked", profile.label, constraint.key));
        };
        let context = Context { root_resource: frame.root, ..Context::of(frame.resource) };
        match constraint.expression.says_within(focus, &context, &self.budget) {
            Ok(Some(false)) => {
                let words = format!("{}: {}: {}", profile.label, constraint.key, constraint.human);
                let issue = Issue::error(IssueCode::Invariant, words).at(frame.place(None));
                self.push(Issue { severity: constraint.severity, ..issue })
            }
            // As in the rules of the specification, what says nothing does not prove the resource wrong.
            Ok(_) => Ok(()),
            Err(EvaluateError::TooCostly | EvaluateError::TooDeep) => Err(Stop::TooCostly),
            Err(error) => {
                let words = format!("{}: {} could not be checked: {error}", profile.label, constraint.key);
                self.unchecked(words)
            }
        }
    }

    /// The profiles of the item's type, and what it may refer to.
    fn types(&mut self, profile: &Profile, node: &Node, frame: &Frame<'_, 'v>) -> Checked<(), D> {
        let own = || node.types.iter().filter(|one| frame.item.is(&one.code));
        let profiles: Vec<&str> = own().flat_map(|one| &one.profiles).map(|canonical| &**canonical).collect();
        self.budget.spend(profiles.len())?;
        // A type without profiles is one of the alternatives.
        if own().all(|one| !one.profiles.is_empty()) {
            match profiles.as_slice() {
                [] => {}
                [only] => self.conforms(profile, only, frame)?,
                several => self.conforms_to_one(profile, several, frame)?,
            }
        }
        let references: Vec<&Type> = own().collect();
        if frame.item.is("Reference") && references.iter().all(|one| !one.targets.is_empty()) {
            self.refers(profile, &references, frame)?;
        }
        Ok(())
    }

    fn conforms(&mut self, outer: &Profile, canonical: &str, frame: &Frame<'_, 'v>) -> Checked<(), D> {
        if is_specified(canonical) {
            let name = specified(canonical).unwrap_or_default();
            return self.is_specified(outer, name, frame);
        }
        let canonical_words = shortened(canonical);
        match self.profile(canonical)? {
            Known::Profile(profile) if frame.item.is(&profile.type_name) => self.check(&profile, ROOT, frame),
            Known::Profile(profile) => {
                let words = format!("must be of type {}", profile.type_name);
                self.wrong(IssueCode::Structure, outer, frame, &words)
            }
            Known::Absent => {
                let words = format!(
                    "must conform to the profile `{canonical_words}`, which is not loaded: store its StructureDefinition"
                );
                self.wrong(IssueCode::NotFound, outer, frame, &words)
            }
            Known::Unusable(error) => {
                let words =
                    format!("must conform to the profile `{canonical_words}`, which cannot be used: {error}");
                self.wrong(IssueCode::NotSupported, outer, frame, &words)
            }
        }
    }

    /// Whether the item is what the specification calls so.
    fn is_specified(&mut self, outer: &Profile, name: &str, frame: &Frame<'_, 'v>) -> Checked<(), D> {
        let is_kind_of_quantity = KINDS_OF_QUANTITY.contains(&name);
        if !frame.item.is(if is_kind_of_quantity { "Quantity" } else { name }) {
            return self.wrong(IssueCode::Structure, outer, frame, &format!("must be of type {name}"));
        }
        // sqty-1, which the rules of the types do not have.
        if name == "SimpleQuantity" && frame.item.value.is_some_and(|value| value.get("comparator").is_some())
        {
            let words = "must have no `comparator`, as a SimpleQuantity has none";
            return self.wrong(IssueCode::Invariant, outer, frame, words);
        }
        Ok(())
    }

    /// Whether the item conforms to one of several profiles; what is wrong with it by each is not told.
    fn conforms_to_one(
        &mut self,
        outer: &Profile,
        several: &[&str],
        frame: &Frame<'_, 'v>,
    ) -> Checked<(), D> {
        let mut absent = None;
        for canonical in several {
            if !is_specified(canonical) && !matches!(self.profile(canonical)?, Known::Profile(_)) {
                absent = Some(*canonical);
                continue;
            }
            let before = std::mem::replace(&mut self.found, Found::new(1));
            let outcome = self.conforms(outer, canonical, frame);
            let tried = std::mem::replace(&mut self.found, before);
            match outcome {
                Ok(()) => return tried.others.into_iter().try_for_each(|issue| self.push(issue)),
                Err(Stop::Enough) => {}
                Err(stop) => return Err(stop),
            }
        }
        match absent {
            // It may conform to that.
            Some(absent) => self.conforms(outer, absent, frame),
            None => {
                let words = "conforms to none of the profiles of which it must conform to one";
                self.wrong(IssueCode::Invalid, outer, frame, words)
            }
        }
    }

    /// Whether a literal reference is to a type to which it may be.
    fn refers(&mut self, profile: &Profile, types: &[&Type], frame: &Frame<'_, 'v>) -> Checked<(), D> {
        let text = frame.item.value.and_then(|value| value.get("reference")).and_then(Value::as_str);
        let Some(text) = text.filter(|_| !types.is_empty()) else { return Ok(()) };
        let Some(target) = self.referred_type(text, frame.root)? else { return Ok(()) };
        let mut allowed: Vec<String> = Vec::new();
        for canonical in types.iter().flat_map(|one| &one.targets) {
            self.budget.spend(1)?;
            let name = match specified(canonical).filter(|_| is_specified(canonical)) {
                Some(name) => Some(name.to_owned()),
                None => self.library.type_of(canonical).map_err(unread)?,
            };
            // A profile that is not here may be for any type.
            let Some(name) = name else { return Ok(()) };
            if name == target.name() || matches!(&*name, "Resource" | "DomainResource") {
                return Ok(());
            }
            if specified(&name).is_some() && !allowed.contains(&name) {
                allowed.push(name);
            }
        }
        let words = format!("must refer to: {}", allowed.join(", "));
        self.wrong(IssueCode::Value, profile, frame, &words)
    }

    /// The type that a literal reference names, or that of what is contained.
    fn referred_type(&self, reference: &str, root: &Value) -> Checked<Option<ResourceType>, D> {
        let named = |name: Option<&str>| name.and_then(ResourceType::parse);
        if let Some(id) = reference.strip_prefix('#') {
            let contained =
                root.get("contained").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            self.budget.spend(contained.len())?;
            let own = contained.iter().find(|one| one.get("id").and_then(Value::as_str) == Some(id));
            return Ok(named(own.and_then(|one| one.get("resourceType")?.as_str())));
        }
        let mut parts = reference.split('/');
        let target = named(parts.next());
        Ok(target.filter(|_| parts.next().is_some_and(|id| !id.is_empty())))
    }

    fn children(&mut self, profile: &Profile, id: NodeId, frame: &Frame<'_, 'v>) -> Checked<(), D> {
        let node = profile.node(id);
        let node = match node.content {
            // What it stands for has its children itself: no further.
            Some(content) if node.children.is_empty() => profile.node(content),
            _ => node,
        };
        let definition = frame.item.definition();
        for (name, child) in &node.children {
            self.budget.spend(1 + frame.item.width())?;
            // Of another form of a choice perhaps.
            let Some(number) = definition.number(name) else { continue };
            let name = definition.name(number);
            let items = frame.item.children(name);
            self.budget.spend(items.len())?;
            let frames: Vec<Frame<'_, 'v>> = items.into_iter().map(|item| frame.below(name, item)).collect();
            let own = profile.node(*child);
            // What the specification demands too is said by those who look at that.
            let is_said = frames.is_empty() && own.min > 0 && definition.required >> number & 1 == 1;
            if !is_said {
                self.cardinality(profile, own, None, frames.len(), frame, name)?;
            }
            for item in &frames {
                self.check(profile, *child, item)?;
            }
            if !own.slices.is_empty() || own.slicing.is_some() {
                let items: Vec<&Frame<'_, 'v>> = frames.iter().collect();
                self.slices(profile, *child, &items, frame, name)?;
            }
        }
        Ok(())
    }

    /// Whether there are enough items, and not too many.
    pub(super) fn cardinality(
        &mut self,
        profile: &Profile,
        node: &Node,
        slice: Option<&str>,
        count: usize,
        above: &Frame<'_, 'v>,
        name: &str,
    ) -> Checked<(), D> {
        let (code, words) = match node.max {
            _ if count < node.min && node.min == 1 => (IssueCode::Required, "is required".to_owned()),
            _ if count < node.min => {
                (IssueCode::Required, format!("must be there {} times at least", node.min))
            }
            Some(0) if count > 0 => (IssueCode::Structure, "must not be there".to_owned()),
            Some(1) if count > 1 => (IssueCode::Structure, "must be there once at most".to_owned()),
            Some(max) if count > max => (IssueCode::Structure, format!("must be there {max} times at most")),
            _ => return Ok(()),
        };
        let slice = slice.map(|slice| format!("slice `{}` ", shortened(slice))).unwrap_or_default();
        self.wrong_below(code, profile, above, name, &format!("{slice}{words}"))
    }
}

fn unread<E>(unread: Unread<E>) -> Stop<E> {
    match unread {
        Unread::TooMany => Stop::TooCostly,
        Unread::Definitions(error) => Stop::Definitions(error),
    }
}
