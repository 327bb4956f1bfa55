//! Sealed paging links (R3a): where an answer goes on, unreadable and bound to whom it was given.
//!
//! A link carries the whole query and the place of the last entry, both PHI, sealed with AES-256-GCM under a key
//! derived for that message; the account is bound in, so that a link found in somebody's history is of no use to
//! anyone else. Links are good for a day.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use ward_base::{Random, Timestamp};
use ward_keys::{PlainKey, open_small, seal_small};
use ward_store::Position;

use crate::problem::Problem;

const GOOD_SECONDS: i64 = 24 * 3600;
/// What servers and proxies take in a URL at least (RFC 9110, section 4.1), less the rest of ours.
const CHARACTERS_MAX: usize = 7_800;

/// Seals and opens paging links.
pub(crate) struct Cursors(PlainKey);

/// What a link stands for.
#[derive(Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// The address it belongs to, such as `Patient` or `Patient/_history`: it opens nowhere else.
    pub(crate) place: String,
    /// The query.
    pub(crate) query: Vec<(String, String)>,
    /// The page size.
    pub(crate) count: u32,
    /// Where the page starts; the first page if there is none.
    after: Option<String>,
    made: Timestamp,
}

impl Cursor {
    /// A link to the page after `after`.
    pub(crate) fn new(
        place: &str,
        query: &[(String, String)],
        count: u32,
        after: Option<&Position>,
        now: Timestamp,
    ) -> Self {
        let after = after.map(|position| URL_SAFE_NO_PAD.encode(position.to_bytes()));
        Self { place: place.to_owned(), query: query.to_vec(), count, after, made: now }
    }

    /// Where the page starts.
    pub(crate) fn position(&self) -> Result<Option<Position>, Problem> {
        let decode = |text: &String| URL_SAFE_NO_PAD.decode(text).map_err(|_| Problem::bad_cursor());
        Ok(self.after.as_ref().map(decode).transpose()?.map(|bytes| Position::from_bytes(&bytes)))
    }
}

impl Cursors {
    pub(crate) const fn new(key: PlainKey) -> Self {
        Self(key)
    }

    /// The text for a link; `None` if it would not fit into a URL.
    pub(crate) fn seal(&self, cursor: &Cursor, account: &str, random: &dyn Random) -> Option<String> {
        let plain = zeroize::Zeroizing::new(serde_json::to_vec(cursor).ok()?);
        let text = URL_SAFE_NO_PAD.encode(seal_small(&self.0, &binding(account), &plain, random));
        (text.len() <= CHARACTERS_MAX).then_some(text)
    }

    /// What a link stands for at `place`, if it was given to `account` within the last day.
    pub(crate) fn open(
        &self,
        text: &str,
        place: &str,
        account: &str,
        now: Timestamp,
    ) -> Result<Cursor, Problem> {
        if text.len() > CHARACTERS_MAX {
            return Err(Problem::bad_cursor());
        }
        let sealed = URL_SAFE_NO_PAD.decode(text).map_err(|_| Problem::bad_cursor())?;
        let plain = open_small(&self.0, &binding(account), &sealed).map_err(|_| Problem::bad_cursor())?;
        let cursor: Cursor = serde_json::from_slice(&plain).map_err(|_| Problem::bad_cursor())?;
        if cursor.place != place || now >= cursor.made.plus_seconds(GOOD_SECONDS) {
            return Err(Problem::bad_cursor());
        }
        Ok(cursor)
    }
}

fn binding(account: &str) -> Vec<u8> {
    [b"ward/v1/cursor/".as_slice(), account.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ward_base::SystemRandom;

    #[test]
    fn a_link_opens_for_its_account_its_place_and_its_day() {
        let cursors = Cursors::new(PlainKey::new([7; 32]));
        let query = vec![("name".to_owned(), "Zqxkanary".to_owned())];
        let after = Position::from_bytes(&[1, 2, 3]);
        let cursor = Cursor::new("Patient", &query, 20, Some(&after), Timestamp(0));
        let link = cursors.seal(&cursor, "user/1", &SystemRandom).unwrap();
        assert!(link.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        let open = |link: &str, place: &str, account: &str, now: i64| {
            cursors.open(link, place, account, Timestamp(0).plus_seconds(now))
        };
        let opened = open(&link, "Patient", "user/1", 86_399).unwrap();
        assert_eq!((opened.query, opened.count), (query, 20));
        assert_eq!(Cursor::new("Patient", &[], 1, None, Timestamp(0)).position().unwrap(), None);
        assert!(open(&link, "Patient", "user/2", 1).is_err(), "another account");
        assert!(open(&link, "Observation", "user/1", 1).is_err(), "another place");
        assert!(open(&link, "Patient", "user/1", 86_400).is_err(), "another day");
        for position in 0..link.len() {
            let mut changed = link.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            // The last character may carry unused bits; base64 then refuses it or it is the same link.
            let changed = String::from_utf8(changed).unwrap();
            assert!(changed == link || open(&changed, "Patient", "user/1", 1).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_a_url_is_not_made() {
        let cursors = Cursors::new(PlainKey::new([7; 32]));
        let query = vec![("name".to_owned(), "x".repeat(8000))];
        let cursor = Cursor::new("Patient", &query, 20, None, Timestamp(0));
        assert!(cursors.seal(&cursor, "user/1", &SystemRandom).is_none());
    }
}
