//! `application/x-www-form-urlencoded`, from queries and bodies alike.

use percent_encoding::percent_decode;
use ward_fhir::outcome::IssueCode;

use crate::problem::Problem;

/// The most pairs that anything here takes.
const PAIRS_MAX: usize = 256;

/// The decoded `name=value` pairs. Refuses what is not UTF-8 rather than guess, and what nobody means.
pub(crate) fn pairs(text: &[u8]) -> Result<Vec<(String, String)>, Problem> {
    if text.iter().filter(|byte| **byte == b'&').count() >= PAIRS_MAX {
        return Err(Problem::malformed(IssueCode::TooCostly, format!("more than {PAIRS_MAX} parameters")));
    }
    text.split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            Ok((decoded(parts.next().unwrap_or_default())?, decoded(parts.next().unwrap_or_default())?))
        })
        .collect()
}

fn decoded(text: &[u8]) -> Result<String, Problem> {
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    match percent_decode(&spaced).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Problem::malformed(IssueCode::Structure, "the parameters are not encoded UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_in_order() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs(b"a=1+2&b=%C3%A9%2B&a&=x&&c=d=e").unwrap(),
            [pair("a", "1 2"), pair("b", "é+"), pair("a", ""), pair("", "x"), pair("c", "d=e")]
        );
        assert!(pairs(b"").unwrap().is_empty());
        assert!(pairs(b"a=%FF").is_err());
        assert!(pairs("a&".repeat(255).as_bytes()).is_ok());
        assert!(pairs("a&".repeat(256).as_bytes()).is_err());
    }
}
