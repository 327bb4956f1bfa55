//! The blind index's tokens: what of a resource can be found, and what that shows.
//!
//! A token is 64 bits of HMAC-SHA256 under the tenant's index key. For each kind of value:
//!
//! | kind | tokens | shows |
//! |---|---|---|
//! | type | one | which resources are of one type (the type column shows it anyway) |
//! | token | its code, without its system or parameter | how often a code occurs |
//! | token, few codes possible | none on its own, only with the subject | how often within one subject |
//! | identifier's system | one | how many resources have an identifier of one system |
//! | reference | its target's id, without its parameter; a URL | which resources refer to the same one |
//! | string | prefixes of 2, 3, 5 and 8 characters, normalised | how often a prefix occurs |
//! | uri | the whole | how often it occurs |
//! | date | nodes of the tree in [`crate::radix`], of all values of a parameter together | which dates fall in the same node, not which or in what order |
//! | number, quantity | none | nothing |
//! | subject with code, subject with date | one each; dates from 64 days up | how often within one subject |
//!
//! Few possible codes (sex, status) would fall to counting, so such parameters are only indexed together with the
//! subject (mostly a patient), and otherwise left to the check after decryption. The same goes for `:missing`, negations,
//! `:contains` and everything else without tokens.
//!
//! Leaving out system and parameter makes one token serve `code`, `combo-code` and `system|code`; a resource that is
//! found for another reason is read and dropped.
//!
//! Tokens of one subject share their upper 32 bits, so that writing to one patient touches few pages of the index.
//! That the entries of one patient belong together is visible from the data key's id as well.

use std::collections::{BTreeMap, BTreeSet};

use ward_fhir::{
    ResourceType,
    search::{Extracted, SearchValue, normalize_string},
};
use ward_keys::Tokenizer;

use crate::radix::{self, Node, Role};

/// Prefixes of these many characters are indexed. Shorter searches examine everything.
pub(crate) const PREFIXES: [usize; 4] = [2, 3, 5, 8];
/// The finest node that dates have together with a subject: 64 days.
pub(crate) const SUBJECT_DATE_LEVEL: u8 = 2;

/// Makes tokens for one resource type.
pub(crate) struct Tokens<'a> {
    tokenizer: &'a Tokenizer,
    resource_type: &'static [u8],
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, resource_type: ResourceType) -> Self {
        Self { tokenizer, resource_type: resource_type.name().as_bytes() }
    }

    fn token(&self, label: &str, value: &[u8]) -> i64 {
        self.tokenizer.token64(label, &[self.resource_type, value])
    }

    pub(crate) fn code(&self, code: &str) -> i64 {
        self.token("bix/code", code.to_lowercase().as_bytes())
    }

    pub(crate) fn identifier_system(&self, system: &str) -> i64 {
        self.token("bix/identifier-system", system.as_bytes())
    }

    pub(crate) fn uri(&self, uri: &str) -> i64 {
        self.token("bix/uri", uri.as_bytes())
    }

    pub(crate) fn reference_url(&self, url: &str) -> i64 {
        self.token("bix/reference-url", url.as_bytes())
    }

    pub(crate) fn reference_identifier(&self, value: &str) -> i64 {
        self.token("bix/reference-identifier", value.to_lowercase().as_bytes())
    }

    /// The longest indexed prefix of a normalised string; `None` if it is shorter than any.
    pub(crate) fn longest_prefix(&self, text: &str) -> Option<i64> {
        PREFIXES.iter().rev().find_map(|length| Some(self.prefix(take(text, *length)?)))
    }

    fn prefix(&self, prefix: &str) -> i64 {
        self.token("bix/prefix", prefix.as_bytes())
    }

    pub(crate) fn date(&self, parameter: &str, role: Role, node: Node) -> i64 {
        let parts = [self.resource_type, parameter.as_bytes(), &node_bytes(role, node)];
        self.tokenizer.token64("bix/date", &parts)
    }

    /// The tokens that name one target of a reference. Its type is left out: a search may leave it out too.
    pub(crate) fn target(&self, id: &str) -> TargetTokens<'_> {
        let token = self.tokenizer.token64("bix/target", &[id.as_bytes()]);
        TargetTokens { tokens: self, upper: token & !0xffff_ffff, id: token.to_be_bytes() }
    }
}

/// Makes the tokens of one target, all with the same upper half.
pub(crate) struct TargetTokens<'a> {
    tokens: &'a Tokens<'a>,
    upper: i64,
    id: [u8; 8],
}

impl TargetTokens<'_> {
    fn token(&self, label: &str, parts: [&[u8]; 2]) -> i64 {
        let [first, second] = parts;
        let parts = [self.id.as_slice(), self.tokens.resource_type, first, second];
        self.upper | self.tokens.tokenizer.token64(label, &parts) & 0xffff_ffff
    }

    /// For resources that refer to it.
    pub(crate) fn reference(&self) -> i64 {
        self.token("bix/target/reference", [&[], &[]])
    }

    /// For resources about it with a code.
    pub(crate) fn code(&self, code: &str) -> i64 {
        self.token("bix/target/code", [code.to_lowercase().as_bytes(), &[]])
    }

    /// For resources about it with a date.
    pub(crate) fn date(&self, parameter: &str, role: Role, node: Node) -> i64 {
        self.token("bix/target/date", [parameter.as_bytes(), &node_bytes(role, node)])
    }
}

fn node_bytes(role: Role, (level, number): Node) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [u8::from(role == Role::Above), level, a, b, c, d]
}

/// The first `length` characters, if there are so many.
fn take(text: &str, length: usize) -> Option<&str> {
    let mut ends = text.char_indices().map(|(start, _)| start).skip(length);
    match ends.next() {
        Some(end) => text.get(..end),
        None => (text.chars().count() == length).then_some(text),
    }
}

/// The token that every current resource of the type has.
pub(crate) fn type_token(tokenizer: &Tokenizer, resource_type: ResourceType) -> i64 {
    Tokens::new(tokenizer, resource_type).token("bix/type", &[])
}

/// Whether a reference parameter says whom a resource is about.
pub(crate) fn is_subject(parameter: &str) -> bool {
    matches!(parameter, "patient" | "subject")
}

/// Whether a parameter is answered without the blind index.
pub(crate) fn is_of_the_row(parameter: &str) -> bool {
    matches!(parameter, "_id" | "_lastUpdated")
}

/// All tokens of a resource, sorted and distinct.
pub(crate) fn of_resource(
    tokenizer: &Tokenizer,
    resource_type: ResourceType,
    extracted: &[Extracted],
) -> Vec<i64> {
    let tokens = Tokens::new(tokenizer, resource_type);
    let subjects: BTreeSet<&str> = extracted.iter().filter_map(subject).collect();
    let subjects: Vec<TargetTokens<'_>> = subjects.into_iter().map(|id| tokens.target(id)).collect();
    let mut collected = vec![type_token(tokenizer, resource_type)];
    let mut dates: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for Extracted { parameter, value } in extracted {
        if is_of_the_row(parameter.code) {
            continue;
        }
        if let SearchValue::Date { start, end } = value {
            let span = dates.entry(parameter.code).or_insert((*start, *end));
            *span = (span.0.min(*start), span.1.max(*end));
        }
        let value = match value {
            SearchValue::Composite(parts) => parts.first(),
            value => Some(value),
        };
        match value {
            Some(SearchValue::Token { system, code, .. }) => {
                if let Some(code) = code {
                    if !parameter.low_entropy {
                        collected.push(tokens.code(code));
                    }
                    collected.extend(subjects.iter().map(|subject| subject.code(code)));
                }
                if let (Some(system), "identifier") = (system, parameter.code) {
                    collected.push(tokens.identifier_system(system));
                }
            }
            Some(SearchValue::String(text)) => {
                let text = normalize_string(text);
                let prefixes = PREFIXES.iter().map_while(|length| take(&text, *length));
                collected.extend(prefixes.map(|prefix| tokens.prefix(prefix)));
            }
            Some(SearchValue::Uri(uri)) => collected.push(tokens.uri(uri)),
            Some(SearchValue::Reference { id, url, identifier, .. }) => {
                if let Some(id) = id {
                    collected.push(tokens.target(id).reference());
                }
                if let Some(url) = url {
                    collected.push(tokens.reference_url(url));
                    // A canonical is found without its version too.
                    collected.extend(url.split_once('|').map(|(plain, _)| tokens.reference_url(plain)));
                }
                if let Some((_, Some(value))) = identifier {
                    collected.push(tokens.reference_identifier(value));
                }
            }
            _ => {}
        }
    }
    for (parameter, (start, end)) in dates {
        let nodes = radix::stored(start, end, 0);
        collected.extend(nodes.into_iter().map(|(role, node)| tokens.date(parameter, role, node)));
        let nodes = radix::stored(start, end, SUBJECT_DATE_LEVEL);
        for subject in &subjects {
            collected.extend(nodes.iter().map(|(role, node)| subject.date(parameter, *role, *node)));
        }
    }
    collected.sort_unstable();
    collected.dedup();
    collected
}

/// The id of whom the resource is about, if this value says so.
fn subject(extracted: &Extracted) -> Option<&str> {
    match &extracted.value {
        SearchValue::Reference { id: Some(id), .. } if is_subject(extracted.parameter.code) => Some(id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_cut_by_characters() {
        assert_eq!(take("zoë", 2), Some("zo"));
        assert_eq!(take("zoë", 3), Some("zoë"));
        assert_eq!(take("zoë", 4), None);
        assert_eq!(take("", 1), None);
    }
}
