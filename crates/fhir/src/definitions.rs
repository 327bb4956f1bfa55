//! The tables of `definitions/`, parsed once: what elements a type has, how often, of what type and with which codes.
//!
//! A type's elements are found by the name that stands in JSON, so that a choice such as `value[x]` is found as
//! `valueQuantity`, `valueString` and so on. Concrete resource types come first, in the order of their names: the
//! index of a [`crate::ResourceType`] is the index of its definition.

use std::sync::{LazyLock, OnceLock};

use crate::invariant::{self, Invariant};
use crate::primitive::Primitive;

/// The place of a definition in the table; handed out by this module only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DefinitionId(u16);

/// A resource type, a complex data type or a part of either.
#[derive(Debug)]
pub(crate) struct Definition {
    /// `Patient`, `HumanName`, `Patient.contact`.
    pub(crate) path: &'static str,
    /// One bit for each element that must be there.
    pub(crate) required: u64,
    /// In the order of the specification; the position is [`Element::number`].
    names: Vec<&'static str>,
    /// Every JSON name; the forms of a choice next to each other.
    elements: Vec<Element>,
    /// Open addressing over `elements`: their positions from 1, 0 where nothing is. Never more than half full.
    slots: Vec<u16>,
    /// Compiled when first asked for.
    invariants: OnceLock<Box<[Invariant]>>,
}

/// An element as it stands in JSON: one form of it if it is a choice.
#[derive(Debug)]
pub(crate) struct Element {
    /// The name in JSON, such as `valueQuantity`.
    pub(crate) key: Box<str>,
    /// The name in the specification without `[x]`, such as `value`.
    pub(crate) name: &'static str,
    /// Shared by the forms of a choice, unlike any other of the same definition, less than 64.
    pub(crate) number: u32,
    /// What its values are.
    pub(crate) of: ElementType,
    /// Whether it is an array.
    pub(crate) many: bool,
    /// Whether there are other forms of it.
    pub(crate) choice: bool,
    /// The codes that it must come from, if the specification lists them.
    pub(crate) codes: Option<Codes>,
}

/// What an element's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElementType {
    /// A value with a format.
    Primitive(Primitive),
    /// The XHTML of a narrative.
    Xhtml,
    /// An object with elements of its own.
    Complex(DefinitionId),
    /// Any resource.
    Resource,
}

/// The codes of a required binding, in byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Codes(&'static [&'static str]);

impl Codes {
    /// How many there are.
    pub(crate) const fn len(self) -> usize {
        self.0.len()
    }

    /// All of them.
    pub(crate) const fn all(self) -> &'static [&'static str] {
        self.0
    }

    /// Whether `code` is one of them.
    pub(crate) fn contain(self, code: &str) -> bool {
        self.0.binary_search(&code).is_ok()
    }
}

impl Definition {
    const fn empty(path: &'static str) -> Self {
        Self {
            path,
            required: 0,
            names: Vec::new(),
            elements: Vec::new(),
            slots: Vec::new(),
            invariants: OnceLock::new(),
        }
    }

    /// The element with this name in JSON.
    pub(crate) fn element(&self, key: &str) -> Option<&Element> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut slot = hash(key) & mask;
        loop {
            let position = usize::from(*self.slots.get(slot)?);
            let element = self.elements.get(position.checked_sub(1)?)?;
            if *element.key == *key {
                return Some(element);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The rules that every object of this type keeps.
    pub(crate) fn invariants(&self) -> &[Invariant] {
        self.invariants.get_or_init(|| invariant::of(self))
    }

    /// The name of the element with this number.
    pub(crate) fn name(&self, number: u32) -> &'static str {
        self.names.get(number as usize).copied().unwrap_or_default()
    }

    /// Every element by its JSON name; the forms of a choice next to each other.
    pub(crate) fn elements(&self) -> &[Element] {
        &self.elements
    }

    /// The number of the element of this name, which for a choice is that without a type.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        (0..).zip(&self.names).find(|(_, own)| **own == name).map(|(number, _)| number)
    }

    fn index(&mut self) {
        let size = (self.elements.len() * 2).next_power_of_two();
        let mut slots = vec![0_u16; size];
        for (position, element) in self.elements.iter().enumerate() {
            let mut slot = hash(&element.key) & (size - 1);
            while slots.get(slot).is_some_and(|taken| *taken != 0) {
                slot = (slot + 1) & (size - 1);
            }
            if let (Some(free), Ok(position)) = (slots.get_mut(slot), u16::try_from(position + 1)) {
                *free = position;
            }
        }
        self.slots = slots;
    }
}

/// Spreads names by their length and their first and last bytes; all that matters is that it is quick.
fn hash(key: &str) -> usize {
    let bytes = key.as_bytes();
    let four = |part: Option<&[u8; 4]>| part.map_or(0, |part| u64::from(u32::from_le_bytes(*part)));
    let ends = match bytes.last_chunk::<8>() {
        Some(end) => u64::from_le_bytes(*end),
        None if bytes.len() >= 4 => four(bytes.first_chunk()) << 32 | four(bytes.last_chunk()),
        None => bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    let mixed = (ends ^ (bytes.len() as u64).rotate_left(56)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 40) as usize
}

struct Tables {
    definitions: Box<[Definition]>,
    /// How many of the definitions, at the front, are concrete resource types.
    resources: usize,
    /// By the name of the value set, in byte order.
    codes: Vec<(&'static str, Codes)>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(read);

/// The definitions of the concrete resource types, by name.
pub(crate) fn resources() -> &'static [Definition] {
    TABLES.definitions.get(..TABLES.resources).unwrap_or_default()
}

/// The definition of a concrete resource type.
pub(crate) fn resource(name: &str) -> Option<&'static Definition> {
    let resources = resources();
    resources.binary_search_by(|one| one.path.cmp(name)).ok().and_then(|position| resources.get(position))
}

/// The definition called `path`: a resource type, a data type or a part of one.
pub(crate) fn by_path(path: &str) -> Option<&'static Definition> {
    let others = TABLES.definitions.get(TABLES.resources..).unwrap_or_default();
    let found =
        others.binary_search_by(|one| one.path.cmp(path)).ok().and_then(|position| others.get(position));
    found.or_else(|| resource(path))
}

/// What may stand beside a primitive value: `id` and `extension`.
pub(crate) fn element() -> &'static Definition {
    static ELEMENT: LazyLock<Option<&'static Definition>> = LazyLock::new(|| by_path("Element"));
    ELEMENT.unwrap_or(&NOTHING)
}

static NOTHING: Definition = Definition::empty("");

/// What nothing is known of.
pub(crate) fn nothing() -> &'static Definition {
    &NOTHING
}

/// The codes of the value set with this last part of its address, if a required binding has it.
pub(crate) fn codes(name: &str) -> Option<Codes> {
    find(&TABLES.codes, name)
}

/// The definition that an element refers to.
pub(crate) fn definition(id: DefinitionId) -> &'static Definition {
    TABLES.definitions.get(usize::from(id.0)).unwrap_or(&NOTHING)
}

fn read() -> Tables {
    let codes = read_codes();
    let mut headers: Vec<(&'static str, &'static str, Vec<&'static str>)> = Vec::new();
    for line in include_str!("../definitions/types.txt").lines() {
        if let Some((path, kind)) = line.strip_prefix('@').and_then(|header| header.split_once(' ')) {
            headers.push((path, kind, Vec::new()));
        } else if let Some((_, _, elements)) = headers.last_mut() {
            elements.push(line);
        }
    }
    headers.sort_by_key(|(path, kind, _)| (*kind != "resource", *path));
    let resources = headers.iter().filter(|(_, kind, _)| *kind == "resource").count();
    let mut places: Vec<(&'static str, DefinitionId)> =
        headers.iter().zip(0..).map(|((path, ..), position)| (*path, DefinitionId(position))).collect();
    places.sort_by_key(|(path, _)| *path);
    let definitions =
        headers.iter().map(|(path, _, lines)| read_definition(path, lines, &places, &codes)).collect();
    Tables { definitions, resources, codes }
}

fn read_codes() -> Vec<(&'static str, Codes)> {
    let mut codes: Vec<(&'static str, Codes)> = include_str!("../definitions/codes.txt")
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, codes)| {
            let mut codes: Vec<&'static str> = codes.split(' ').collect();
            codes.sort_unstable();
            (name, Codes(codes.leak()))
        })
        .collect();
    codes.sort_by_key(|(name, _)| *name);
    codes
}

/// Reads lines `name min max type[|type…] [value set]`; the name of a choice ends with `[x]`.
fn read_definition(
    path: &'static str,
    lines: &[&'static str],
    places: &[(&'static str, DefinitionId)],
    codes: &[(&'static str, Codes)],
) -> Definition {
    let mut definition = Definition::empty(path);
    for (line, number) in lines.iter().zip(0..u64::BITS) {
        let mut words = line.split(' ');
        let (Some(name), Some(min), Some(max), Some(types)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let bound = words.next().and_then(|name| find(codes, name));
        if min != "0" {
            definition.required |= 1 << number;
        }
        let choice = name.strip_suffix("[x]");
        let name = choice.unwrap_or(name);
        definition.names.push(name);
        for kind in types.split('|') {
            let Some(of) = read_type(kind, places) else { continue };
            let key = if choice.is_some() { form(name, kind) } else { name.into() };
            definition.elements.push(Element {
                key,
                name,
                number,
                of,
                many: max != "1",
                choice: choice.is_some(),
                codes: bound,
            });
        }
    }
    definition.index();
    definition
}

fn read_type(name: &str, places: &[(&'static str, DefinitionId)]) -> Option<ElementType> {
    match name {
        "xhtml" => Some(ElementType::Xhtml),
        "Resource" => Some(ElementType::Resource),
        _ => Primitive::parse(name)
            .map(ElementType::Primitive)
            .or_else(|| find(places, name).map(ElementType::Complex)),
    }
}

fn find<T: Copy>(sorted: &[(&'static str, T)], name: &str) -> Option<T> {
    let position = sorted.binary_search_by(|(one, _)| (*one).cmp(name)).ok()?;
    sorted.get(position).map(|(_, found)| *found)
}

/// The JSON name of a choice in one of its forms.
fn form(name: &str, kind: &str) -> Box<str> {
    let mut letters = kind.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    name.chars().chain(first).chain(letters).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_tables_is_understood() {
        let (mut paths, mut elements) = (0, 0);
        let mut lines = include_str!("../definitions/types.txt").lines().peekable();
        while let Some(header) = lines.next() {
            let (path, _) = header.strip_prefix('@').unwrap().split_once(' ').unwrap();
            let found = by_path(path).unwrap();
            assert_eq!(found.path, path);
            paths += 1;
            let mut number = 0;
            while let Some(line) = lines.next_if(|line| !line.starts_with('@')) {
                let words: Vec<&str> = line.split(' ').collect();
                assert!(words.len() == 4 || words.len() == 5, "{line}");
                let name = words[0].trim_end_matches("[x]");
                for kind in words[3].split('|') {
                    let key = if name == words[0] { name.into() } else { form(name, kind) };
                    let element = found.element(&key).unwrap_or_else(|| panic!("{path}: {line}: {key}"));
                    assert_eq!(
                        (element.name, element.number, element.choice),
                        (name, number, name != words[0])
                    );
                    assert_eq!(found.name(number), name);
                    assert_eq!(element.many, words[2] == "*");
                    assert_eq!(element.codes.is_some(), words.len() == 5, "{line}");
                    assert_eq!(found.required >> number & 1 == 1, words[1] == "1");
                    match element.of {
                        ElementType::Complex(id) => assert_eq!(definition(id).path, kind),
                        ElementType::Primitive(primitive) => {
                            assert_eq!(Primitive::parse(kind), Some(primitive))
                        }
                        ElementType::Xhtml => assert_eq!(kind, "xhtml"),
                        ElementType::Resource => assert_eq!(kind, "Resource"),
                    }
                    elements += 1;
                }
                number += 1;
            }
            assert!(found.element("").is_none() && found.element("no").is_none(), "{path}");
            // One property has this name and is no resource's.
            assert!(resource(path).is_none_or(|found| found.element("resourceType").is_none()), "{path}");
        }
        assert_eq!(paths, TABLES.definitions.len());
        assert_eq!(elements, TABLES.definitions.iter().map(|one| one.elements.len()).sum::<usize>());
    }

    #[test]
    fn choices_are_found_by_their_forms() {
        let observation = resource("Observation").unwrap();
        assert!(observation.element("valueQuantity").unwrap().choice);
        assert!(observation.element("value").is_none() && observation.element("valueMoney").is_none());
        assert!(resource("HumanName").is_none() && by_path("HumanName").is_some());
        let gender = resource("Patient").unwrap().element("gender").unwrap().codes.unwrap();
        assert!(gender.len() == 4 && gender.contain("other") && !gender.contain("Other"));
    }
}
