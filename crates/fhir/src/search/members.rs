use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::parameters::SearchParameter;

/// Reads a resource from its JSON text, but of its members only those that `parameters` look at: they find in it what
/// they find in the whole. Most of a resource is none of a search's business, and to build it takes most of the time.
///
/// # Errors
/// The text is not JSON, or not an object.
pub fn read_for<'p>(
    text: &[u8],
    parameters: impl Iterator<Item = &'p SearchParameter>,
) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let members = Members(parameters.collect()).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Value::Object(members))
}

struct Members<'p>(Vec<&'p SearchParameter>);

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a resource")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            if self.0.iter().any(|parameter| parameter.looks_at(&name)) {
                members.insert(name, object.next_value()?);
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        Ok(members)
    }
}
