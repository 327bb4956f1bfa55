use crate::definitions::{self, Definition};

/// One of the 146 concrete resource types of FHIR R4 (<https://hl7.org/fhir/R4/resourcelist.html>).
///
/// A value exists only for a type that does, so holding one proves that the name came from the specification and
/// may be logged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceType(u16);

impl ResourceType {
    /// The type called exactly `name`; `None` if R4 has none of that name. Abstract types have no value.
    pub fn parse(name: &str) -> Option<Self> {
        let position = definitions::resources().binary_search_by(|one| one.path.cmp(name)).ok()?;
        u16::try_from(position).ok().map(Self)
    }

    /// The name as it stands in `resourceType`.
    pub fn name(self) -> &'static str {
        definitions::resources().get(self.index()).map_or("", |one| one.path)
    }

    /// Every type, in the order of the names.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..u16::try_from(definitions::resources().len()).unwrap_or(u16::MAX)).map(Self)
    }

    /// The place of the type in [`ResourceType::all`]; dense, so that tables may be indexed by it.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// What the specification says of it.
    pub(crate) fn definition(self) -> Option<&'static Definition> {
        definitions::resources().get(self.index())
    }
}

impl std::fmt::Debug for ResourceType {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

impl std::fmt::Display for ResourceType {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::ResourceType;

    #[test]
    fn names_and_values_belong_together() {
        assert_eq!(ResourceType::all().count(), 146);
        for (position, resource_type) in ResourceType::all().enumerate() {
            assert_eq!(ResourceType::parse(resource_type.name()), Some(resource_type));
            assert_eq!(resource_type.index(), position);
            assert_eq!(resource_type.definition().unwrap().path, resource_type.name());
        }
        for name in ["", "patient", "Resource", "DomainResource", "HumanName", "Patient "] {
            assert_eq!(ResourceType::parse(name), None, "{name}");
        }
    }
}
