//! Bindings to value sets (<https://hl7.org/fhir/R4/terminologies.html#strength>).

use std::sync::Arc;

use serde_json::Value;

use super::check::{Checked, Stop, Validator};
use super::item::{Frame, Item};
use super::tree::Binding;
use super::{Definitions, Profile, shortened};
use crate::definitions;
use crate::element::Kind;
use crate::outcome::IssueCode;
use crate::terminology::{Expansion, TerminologyError, split_canonical};

const SPECIFIED: &str = "http://hl7.org/fhir/ValueSet/";

impl<'v, D: Definitions> Validator<'v, '_, D> {
    /// Whether the item has a code that it may have.
    pub(super) fn binding(
        &mut self,
        profile: &Profile,
        binding: &Binding,
        frame: &Frame<'_, 'v>,
    ) -> Checked<(), D> {
        self.budget.spend(1)?;
        if is_said(binding, &frame.item) {
            return Ok(());
        }
        match self.is_bound(binding, &frame.item, frame)? {
            Some(false) if binding.is_required => {
                let words = match &binding.value_set {
                    Some(set) => format!("must have a code of the value set `{}`", shortened(set)),
                    None => "must have a code of the value set that the profile names".to_owned(),
                };
                self.wrong(IssueCode::CodeInvalid, profile, frame, &words)
            }
            Some(false) => {
                let set = shortened(binding.value_set.as_deref().unwrap_or_default());
                let words = format!("should have a code of the value set `{set}`, if one of it fits");
                self.warning(IssueCode::CodeInvalid, profile, frame, &words)
            }
            Some(true) | None => Ok(()),
        }
    }

    /// Whether the item has a code of the value set, or may have none; nothing if that cannot be told here.
    pub(super) fn is_bound(
        &mut self,
        binding: &Binding,
        item: &Item<'v>,
        frame: &Frame<'_, 'v>,
    ) -> Checked<Option<bool>, D> {
        // A primitive that has only what extends it has no code.
        let Some(value) = item.value else { return Ok(Some(true)) };
        let codings: Vec<(Option<&str>, Option<&str>)> = match item.kind {
            Kind::Primitive(_) => vec![(None, value.as_str())],
            Kind::Complex(definition) => match definition.path {
                "CodeableConcept" => {
                    let codings = value.get("coding").and_then(Value::as_array);
                    codings.map(Vec::as_slice).unwrap_or_default().iter().map(coding).collect()
                }
                "Coding" | "Quantity" => vec![coding(value)],
                _ => return Ok(Some(true)),
            },
            Kind::Xhtml => return Ok(Some(true)),
        };
        // Extensions say why there is none; in an extensible binding words alone are enough.
        let is_coded = codings.iter().any(|(_, code)| code.is_some());
        if !is_coded && (!binding.is_required || value.get("extension").is_some()) {
            return Ok(Some(true));
        }
        let Some(set) = &binding.value_set else {
            if binding.is_required {
                self.unchecked(format!("a binding of `{}` names no value set: not checked", frame.name))?;
            }
            return Ok(None);
        };
        let Some(expansion) = self.expansion(set)? else { return Ok(None) };
        self.budget.spend(codings.len())?;
        let is_primitive = matches!(item.kind, Kind::Primitive(_));
        let is_one = |(system, code): &(Option<&str>, Option<&str>)| {
            let Some(code) = code else { return false };
            (is_primitive || system.is_some()) && expansion.find(*system, code).is_some()
        };
        Ok(Some(codings.iter().any(is_one)))
    }

    /// The codes of a value set; nothing, with a word about it, if they cannot be worked out.
    fn expansion(&mut self, canonical: &str) -> Checked<Option<Arc<Expansion>>, D> {
        let known = match self.expansions.get(canonical) {
            Some(known) => known.clone(),
            None => {
                let worked_out = match self.terminology.expand(canonical) {
                    Ok(expansion) => Ok(expansion),
                    Err(TerminologyError::Fault(fault)) => Err(fault),
                    Err(TerminologyError::Definitions(error)) => return Err(Stop::Definitions(error)),
                };
                self.expansions.insert(canonical.into(), worked_out.clone());
                worked_out
            }
        };
        match known {
            Ok(expansion) => Ok(Some(expansion)),
            Err(fault) => {
                let set = shortened(canonical);
                self.unchecked(format!("the value set `{set}` could not be checked: {fault}"))?;
                Ok(None)
            }
        }
    }
}

/// Whether validation against the specification holds the same binding.
fn is_said(binding: &Binding, item: &Item<'_>) -> bool {
    let name = binding.value_set.as_deref().and_then(|set| split_canonical(set).0.strip_prefix(SPECIFIED));
    let codes = name.and_then(definitions::codes);
    codes.is_some() && codes == item.codes
}

fn coding(value: &Value) -> (Option<&str>, Option<&str>) {
    let own = |key: &str| value.get(key).and_then(Value::as_str);
    (own("system"), own("code"))
}
