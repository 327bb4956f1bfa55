//! The XHTML of a narrative: what may stand in `Narrative.div` (<https://hl7.org/fhir/R4/narrative.html>, txt-1).
//!
//! Elements and attributes are those of the chapters of HTML 4.0 that the specification names, and nothing else, so
//! whatever a browser would run is refused without being known. It is no parser of XHTML: what it cannot read at
//! once it refuses, and a page that shows a narrative must still trust nothing.

/// Elements of chapters 7 to 11 and 15 of HTML 4.0, and of 12 and 13 those that the specification adds; in byte
/// order.
const ELEMENTS: &[&str] = &[
    "a",
    "abbr",
    "acronym",
    "address",
    "area",
    "b",
    "bdo",
    "big",
    "blockquote",
    "br",
    "caption",
    "center",
    "cite",
    "code",
    "col",
    "colgroup",
    "dd",
    "del",
    "dfn",
    "dir",
    "div",
    "dl",
    "dt",
    "em",
    "font",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "i",
    "img",
    "ins",
    "kbd",
    "li",
    "map",
    "menu",
    "ol",
    "p",
    "pre",
    "q",
    "s",
    "samp",
    "small",
    "span",
    "strike",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "tr",
    "tt",
    "u",
    "ul",
    "var",
];

/// Attributes of those elements that only describe; in byte order.
const ATTRIBUTES: &[&str] = &[
    "abbr",
    "accesskey",
    "align",
    "alt",
    "axis",
    "bgcolor",
    "border",
    "cellpadding",
    "cellspacing",
    "char",
    "charoff",
    "charset",
    "cite",
    "class",
    "clear",
    "color",
    "cols",
    "colspan",
    "compact",
    "coords",
    "datetime",
    "dir",
    "face",
    "frame",
    "headers",
    "height",
    "href",
    "hreflang",
    "hspace",
    "id",
    "idref",
    "ismap",
    "lang",
    "longdesc",
    "name",
    "noshade",
    "nowrap",
    "rel",
    "rev",
    "rowspan",
    "rules",
    "scope",
    "shape",
    "size",
    "span",
    "src",
    "start",
    "style",
    "summary",
    "tabindex",
    "target",
    "title",
    "type",
    "usemap",
    "valign",
    "value",
    "vspace",
    "width",
    "xml:lang",
    "xml:space",
];

/// Attributes that hold an address.
const ADDRESSES: &[&str] = &["cite", "href", "longdesc", "src", "usemap"];

const NO_DIV: &str = "must be one XHTML `div` element";
const NOT_WELL_FORMED: &str = "must be well-formed XHTML";
const NOT_ALLOWED: &str =
    "must have only the elements and attributes that the specification allows in a narrative";
const ACTIVE: &str =
    "must have no active content: no scripts, no event handlers, no addresses or styles that run code";

/// Whether `text` may stand in a narrative; if not, why, in words that hold nothing of it.
pub(crate) fn check(text: &str) -> Result<(), &'static str> {
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    let opened = text.strip_prefix("<div").is_some_and(|rest| rest.starts_with(['>', ' ', '\t', '\r', '\n']));
    if !opened || !text.ends_with("</div>") {
        return Err(NO_DIV);
    }
    let mut rest = text;
    let mut depth = 0_usize;
    while let Some((_, tag)) = rest.split_once('<') {
        if let Some(comment) = tag.strip_prefix("!--") {
            let (comment, after) = comment.split_once("-->").ok_or(NOT_WELL_FORMED)?;
            // Where XML sees one comment, HTML would see its end and then a tag.
            if comment.starts_with(['>', '-']) || comment.ends_with('-') || comment.contains("--") {
                return Err(NOT_WELL_FORMED);
            }
            rest = after;
        } else if let Some(end) = tag.strip_prefix('/') {
            let (name, after) = end.split_once('>').ok_or(NOT_WELL_FORMED)?;
            allowed_element(name.trim_end())?;
            depth = depth.checked_sub(1).ok_or(NOT_WELL_FORMED)?;
            // The outermost element ends with the text.
            if depth == 0 && !after.is_empty() {
                return Err(NO_DIV);
            }
            rest = after;
        } else {
            let (closed, after) = start(tag)?;
            depth += usize::from(!closed);
            rest = after;
        }
    }
    if depth == 0 { Ok(()) } else { Err(NOT_WELL_FORMED) }
}

/// Reads a start tag from behind its `<`. Gives whether it is its own end, and what follows.
fn start(tag: &str) -> Result<(bool, &str), &'static str> {
    let end = tag.find([' ', '\t', '\r', '\n', '/', '>']).ok_or(NOT_WELL_FORMED)?;
    let (name, mut rest) = tag.split_at_checked(end).ok_or(NOT_WELL_FORMED)?;
    allowed_element(name)?;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if let Some(after) = rest.strip_prefix("/>") {
            return Ok((true, after));
        }
        if let Some(after) = rest.strip_prefix('>') {
            return Ok((false, after));
        }
        let (name, after) = rest.split_once('=').ok_or(NOT_WELL_FORMED)?;
        let after = after.trim_start_matches([' ', '\t', '\r', '\n']);
        let quote =
            after.chars().next().filter(|first| matches!(first, '"' | '\'')).ok_or(NOT_WELL_FORMED)?;
        let (value, after) =
            after.get(1..).and_then(|after| after.split_once(quote)).ok_or(NOT_WELL_FORMED)?;
        if value.contains('<') {
            return Err(NOT_WELL_FORMED);
        }
        allowed_attribute(name.trim_end_matches([' ', '\t', '\r', '\n']), value)?;
        rest = after;
    }
}

fn allowed_element(name: &str) -> Result<(), &'static str> {
    if ELEMENTS.binary_search(&name).is_ok() { Ok(()) } else { Err(NOT_ALLOWED) }
}

fn allowed_attribute(name: &str, value: &str) -> Result<(), &'static str> {
    if name == "xmlns" || name.starts_with("xmlns:") {
        return if value.contains("w3.org/") || value.contains("hl7.org/") {
            Ok(())
        } else {
            Err(NOT_ALLOWED)
        };
    }
    if name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("on")) {
        return Err(ACTIVE);
    }
    if ATTRIBUTES.binary_search(&name).is_err() {
        return Err(NOT_ALLOWED);
    }
    if (ADDRESSES.contains(&name) && !harmless_address(value)) || (name == "style" && !harmless_style(value))
    {
        return Err(ACTIVE);
    }
    Ok(())
}

/// Whether an address is relative or has a scheme that runs nothing. A character reference could hide the end of a
/// scheme, so there must be none where one may stand.
fn harmless_address(value: &str) -> bool {
    let head = value.split(['/', '?', '#']).next().unwrap_or_default();
    if head.contains('&') {
        return false;
    }
    let Some((scheme, _)) = head.split_once(':') else { return true };
    match scheme.trim().to_ascii_lowercase().as_str() {
        "http" | "https" | "mailto" | "tel" | "ftp" | "urn" | "cid" => true,
        "data" => {
            let kind = value.split_once(':').map_or("", |(_, kind)| kind.trim_start());
            ["image/png;", "image/jpeg;", "image/gif;"].iter().any(|image| kind.starts_with(image))
        }
        _ => false,
    }
}

/// Whether a style neither runs code in any browser nor hides what it says.
fn harmless_style(value: &str) -> bool {
    // Whatever runs needs one of these.
    if !value.bytes().any(|byte| matches!(byte, b'(' | b'@' | b'\\' | b'&' | b'/')) {
        return true;
    }
    let plain = value.to_ascii_lowercase();
    let runs = ["expression", "script", "behavior", "-moz-binding", "@import", "data:text", "\\", "&", "/*"];
    !runs.iter().any(|words| plain.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(content: &str) -> Result<(), &'static str> {
        check(&format!("<div xmlns=\"http://www.w3.org/1999/xhtml\">{content}</div>"))
    }

    #[test]
    fn plain_formatting_is_allowed() {
        for content in [
            "",
            "a &lt; b",
            "<p>a<br/>b</p>",
            "<table border=\"1\"><tr><td colspan='2'>x</td></tr></table>",
            "<a href=\"Patient/1\">x</a>",
            "<a href='https://h/x?a:b'>x</a>",
            "<a href=\"#a\" name=\"b\">x</a>",
            "<img src=\"data:image/png;base64,QUJD\" alt=\"x\"/>",
            "<p style=\"background: url(data: image/png;base64,QUJD)\">x</p>",
            "<!-- <script> is no element here -->",
            "<p style=\"color: red\">x</p>",
            "<a href=\"urn:uuid:c757873d-ec9a-4326-a141-556f43239520\">x</a>",
        ] {
            assert_eq!(inside(content), Ok(()), "{content}");
        }
        assert_eq!(check("\n<div>x</div> "), Ok(()));
    }

    #[test]
    fn active_content_is_refused() {
        for content in [
            "<p onclick=\"x()\">x</p>",
            "<p ONCLICK='x'>x</p>",
            "<a href=\"javascript:x\">x</a>",
            "<a href=\" JavaScript:x\">x</a>",
            "<a href=\"java&#115;cript:x\">x</a>",
            "<a href=\"&#106;avascript:x\">x</a>",
            "<a href=\"java\tscript:x\">x</a>",
            "<a href=\"javascript&#58;x\">x</a>",
            "<a href=\"javascript&colon;x\">x</a>",
            "<img src=\"data:text/html,x\"/>",
            "<img src=\"vbscript:x\"/>",
            "<p style=\"width: expression(x)\">x</p>",
            "<p style=\"background: url(javascript:x)\">x</p>",
            "<p style=\"x: \\65xpression(1)\">x</p>",
        ] {
            assert_eq!(inside(content), Err(ACTIVE), "{content}");
        }
        for content in [
            "<script>x</script>",
            "<SCRIPT>x</SCRIPT>",
            "<iframe src=\"x\"/>",
            "<form><p/></form>",
            "<input/>",
            "<object/>",
            "<embed/>",
            "<svg/>",
            "<style>x</style>",
            "<link/>",
            "<meta/>",
            "<base/>",
            "<body>x</body>",
            "<h:script>x</h:script>",
            "<p formaction=\"x\">x</p>",
            "<p xmlns=\"x\">x</p>",
            "<!DOCTYPE x>",
            "<?x?>",
            "<![CDATA[<script>]]>",
        ] {
            assert_eq!(inside(content), Err(NOT_ALLOWED), "{content}");
        }
    }

    #[test]
    fn what_is_not_one_div_is_refused() {
        for text in [
            "",
            "x",
            "<p>x</p>",
            "<div",
            "<div>",
            "<divx>x</divx>",
            "x<div>x</div>",
            "<div>x</div>x",
            "<div/>",
        ] {
            assert_eq!(check(text), Err(NO_DIV), "{text}");
        }
        assert_eq!(check("<div>x</div><p>y</p><div>z</div>"), Err(NO_DIV));
        for content in [
            "<p>",
            "<br>",
            "<p a>x</p>",
            "<p class=x>y</p>",
            "<!-- ",
            "<p class=\"x>y</p>",
            "<!--><script>x</script>-->",
            "<!-- --!><script>x</script>-->",
            "<p title=\"<script>\">x</p>",
        ] {
            assert!(inside(content).is_err(), "{content}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "<div[<>/a-z \"'=:&#;!-]{0,60}</div>", any in "\\PC{0,60}") {
            let _ = check(&text);
            let _ = inside(&any);
        }
    }
}
