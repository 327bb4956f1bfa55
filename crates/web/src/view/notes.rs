//! Notes: what was written in plain words (DocumentReference, Composition).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{resources, text};

const CHARACTERS_MAX: usize = 100_000;
/// The statuses of a note that must not be read as if it stood, the gravest first.
const DOUBTFUL: [&str; 3] = ["entered-in-error", "superseded", "preliminary"];

/// One note.
pub(crate) struct Note {
    pub(crate) title: String,
    pub(crate) date: String,
    pub(crate) author: String,
    /// Said of a note that does not stand as it is; else empty.
    pub(crate) status: String,
    /// Paragraphs.
    pub(crate) text: Vec<String>,
    when: Option<f64>,
}

/// The notes in search answers, newest first.
pub(crate) fn notes(bundles: &[&Value]) -> Vec<Note> {
    let mut notes: Vec<Note> = bundles.iter().flat_map(|bundle| resources(bundle)).filter_map(note).collect();
    text::newest_first(&mut notes, |note| note.when);
    notes
}

fn note(resource: &Value) -> Option<Note> {
    let is_document = match text::at(resource, "/resourceType")? {
        "DocumentReference" => true,
        "Composition" => false,
        _ => return None,
    };
    let paragraphs = if is_document {
        text::items(resource, "content")
            .iter()
            .filter_map(|content| attachment(content.get("attachment")?))
            .collect()
    } else {
        text::items(resource, "section").iter().flat_map(section).collect()
    };
    let date = text::at(resource, "/date").or_else(|| text::at(resource, "/context/period/start"));
    let title =
        text::at(resource, "/title").or_else(|| text::at(resource, "/description")).map(str::to_owned);
    let statuses = ["/status", "/docStatus"].map(|name| text::at(resource, name));
    let status = DOUBTFUL.into_iter().find(|status| statuses.contains(&Some(*status)));
    Some(Note {
        title: title.or_else(|| text::concept(resource.get("type"))).unwrap_or_else(|| "Note".to_owned()),
        date: date.map(text::date).unwrap_or_default(),
        author: text::joined(
            text::items(resource, "author").iter().filter_map(|author| text::display(Some(author))),
        )
        .unwrap_or_default(),
        status: status.map(text::word).unwrap_or_default(),
        text: paragraphs,
        when: date.and_then(text::days),
    })
}

/// The text of a plain attachment; a sentence in its place for any other.
fn attachment(attachment: &Value) -> Option<String> {
    let media_type = text::at(attachment, "/contentType").unwrap_or_default();
    if !media_type.to_ascii_lowercase().starts_with("text/plain") {
        let title = text::at(attachment, "/title").unwrap_or("Attachment");
        return Some(format!("{title} (not plain text; not shown here)"));
    }
    let Some(data) = text::at(attachment, "/data") else {
        return Some("The text is kept elsewhere; it is not shown here.".to_owned());
    };
    let compact: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let Ok(bytes) = STANDARD.decode(compact) else { return Some("The text cannot be read.".to_owned()) };
    Some(String::from_utf8_lossy(&bytes).chars().take(CHARACTERS_MAX).collect())
}

/// A section of a Composition: its title and narrative as text, and those of the sections in it.
fn section(section: &Value) -> Vec<String> {
    let mut paragraphs = Vec::new();
    let mut open = vec![(section, 0_u8)];
    while let Some((section, depth)) = open.pop() {
        let title = text::at(section, "/title").map(|title| format!("{title}: ")).unwrap_or_default();
        if let Some(narrative) = text::at(section, "/text/div") {
            let words: String = plain(narrative).chars().take(CHARACTERS_MAX).collect();
            paragraphs.push(format!("{title}{words}"));
        }
        if depth < 8 {
            open.extend(text::items(section, "section").iter().rev().map(|inner| (inner, depth + 1)));
        }
    }
    paragraphs
}

/// XHTML without its markup. The result is text, escaped again when it is shown, so a mistake here cannot become
/// markup.
fn plain(xhtml: &str) -> String {
    let mut words = String::with_capacity(xhtml.len());
    let mut rest = xhtml;
    while let Some((before, after)) = rest.split_once('<') {
        words.push_str(before);
        let (tag, following) = after.split_once('>').unwrap_or((after, ""));
        let name = tag.trim_start_matches('/').split([' ', '/', '\t', '\n']).next().unwrap_or_default();
        let breaks = matches!(
            name,
            "p" | "br" | "div" | "li" | "tr" | "h1" | "h2" | "h3" | "h4" | "ul" | "ol" | "table"
        );
        words.push(if breaks { '\n' } else { ' ' });
        rest = following;
    }
    words.push_str(rest);
    for (entity, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&#39;", "'"),
        ("&nbsp;", " "),
        ("&#160;", " "),
        ("&amp;", "&"),
    ] {
        words = words.replace(entity, character);
    }
    let lines = words.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bundle(resource: Value) -> Value {
        json!({"entry": [{"resource": resource}]})
    }

    #[test]
    fn plain_attachments_are_decoded_and_others_named() {
        let document = bundle(json!({
            "resourceType": "DocumentReference", "date": "2024-05-06T07:08:09Z", "type": {"text": "Visit note"},
            "author": [{"display": "Dr A"}],
            "content": [
                {"attachment": {"contentType": "text/plain; charset=utf-8", "data": STANDARD.encode("Fever since Monday.\n<b>")}},
                {"attachment": {"contentType": "application/pdf", "title": "Letter"}},
                {"attachment": {"contentType": "text/plain", "data": "%%%"}},
            ],
        }));
        let notes = notes(&[&document]);
        assert_eq!((notes[0].title.as_str(), notes[0].author.as_str()), ("Visit note", "Dr A"));
        let expected = [
            "Fever since Monday.\n<b>",
            "Letter (not plain text; not shown here)",
            "The text cannot be read.",
        ];
        assert_eq!(notes[0].text, expected);
    }

    #[test]
    fn a_note_that_does_not_stand_says_so() {
        for (resource, shown) in [
            (json!({"resourceType": "DocumentReference", "status": "current", "docStatus": "final"}), ""),
            (json!({"resourceType": "DocumentReference", "status": "superseded"}), "superseded"),
            (
                json!({"resourceType": "DocumentReference", "status": "superseded", "docStatus": "entered-in-error"}),
                "entered in error",
            ),
            (json!({"resourceType": "Composition", "status": "entered-in-error"}), "entered in error"),
            (json!({"resourceType": "Composition", "status": "amended"}), ""),
        ] {
            assert_eq!(note(&resource).unwrap().status, shown);
        }
    }

    #[test]
    fn sections_are_read_in_order_without_markup() {
        let composition = bundle(json!({
            "resourceType": "Composition", "title": "Discharge", "section": [
                {"title": "Plan", "text": {"div": "<div><p>Rest &amp; fluids</p><script>alert(1)</script></div>"},
                 "section": [{"text": {"div": "<div>first</div>"}}, {"text": {"div": "<div>second</div>"}}]},
            ],
        }));
        let expected = ["Plan: Rest & fluids\nalert(1)", "first", "second"];
        assert_eq!(notes(&[&composition])[0].text, expected);
        assert_eq!(plain("a < b <i"), "a");
    }
}
