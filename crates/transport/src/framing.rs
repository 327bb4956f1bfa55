/// Watches the bytes of a connection on their way to the HTTP parser and stops at the first whose meaning two
/// implementations could see differently (RFC 9112, sections 2.2, 5.1, 5.2, 6 and 7.1). Request smuggling lives on
/// such differences.
///
/// It follows requests and their bodies, so that every head is seen, and accepts less than the grammar: one
/// `Content-Length` of digits or `Transfer-Encoding: chunked`, never both; lines that end in CR LF; no folding; no
/// bytes before the request line; chunks without extensions or trailers, which no client of ours needs.
#[derive(Debug)]
pub(crate) struct Inspector {
    state: State,
    /// The part of a line that earlier reads brought.
    line: Vec<u8>,
    length: Option<u64>,
    chunked: bool,
    version_1_0: bool,
    line_bytes_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    RequestLine,
    Header,
    Sized(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    LastChunkEnd,
    /// A line longer than a whole head may be: the parser behind refuses it, and would not get to see its end.
    Overlong,
}

/// Longer than any line between chunks that is accepted.
const CHUNK_LINE_BYTES_MAX: usize = 32;

/// The bytes before this offset are fine; those from it on must not be acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ambiguous {
    pub(crate) offset: usize,
}

impl Inspector {
    /// `head_bytes_max` must be the limit that the parser behind has for a whole head.
    pub(crate) const fn new(head_bytes_max: usize) -> Self {
        Self {
            state: State::RequestLine,
            line: Vec::new(),
            length: None,
            chunked: false,
            version_1_0: false,
            line_bytes_max: head_bytes_max,
        }
    }

    /// Takes the next bytes of the connection.
    pub(crate) fn inspect(&mut self, bytes: &[u8]) -> Result<(), Ambiguous> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = bytes.len() - rest.len();
            match self.state {
                State::Sized(remaining) => {
                    let taken = rest.len().min(usize::try_from(remaining).unwrap_or(usize::MAX));
                    rest = rest.split_at(taken).1;
                    let remaining = remaining - taken as u64;
                    self.state = if remaining == 0 { State::RequestLine } else { State::Sized(remaining) };
                }
                State::ChunkData(remaining) => {
                    let taken = rest.len().min(usize::try_from(remaining).unwrap_or(usize::MAX));
                    rest = rest.split_at(taken).1;
                    let remaining = remaining - taken as u64;
                    self.state = if remaining == 0 { State::ChunkEnd } else { State::ChunkData(remaining) };
                }
                State::Overlong => {
                    let end = rest.iter().position(|byte| *byte == b'\n');
                    return end.map_or(Ok(()), |end| Err(Ambiguous { offset: offset + end }));
                }
                _ => {
                    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                        let within_head = matches!(self.state, State::RequestLine | State::Header);
                        if !within_head && self.line.len() + rest.len() > CHUNK_LINE_BYTES_MAX {
                            return Err(Ambiguous { offset });
                        }
                        if self.line.len() + rest.len() > self.line_bytes_max {
                            self.state = State::Overlong;
                            self.line = Vec::new();
                        } else {
                            self.line.extend_from_slice(rest);
                        }
                        return Ok(());
                    };
                    let (line, after) = rest.split_at(end + 1);
                    rest = after;
                    let fine = if self.line.is_empty() {
                        self.line(line)
                    } else {
                        let mut whole = std::mem::take(&mut self.line);
                        whole.extend_from_slice(line);
                        let fine = self.line(&whole);
                        whole.clear();
                        self.line = whole;
                        fine
                    };
                    fine.ok_or(Ambiguous { offset })?;
                }
            }
        }
        Ok(())
    }

    /// Takes a line that ends in LF; `None` if it is not beyond doubt.
    fn line(&mut self, line: &[u8]) -> Option<()> {
        let line = line.strip_suffix(b"\r\n")?;
        if line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            return None;
        }
        match self.state {
            State::RequestLine => {
                self.version_1_0 = line.ends_with(b" HTTP/1.0");
                // A fragment never leaves a client; the parser behind would drop it without a word.
                if line.contains(&b'#')
                    || !line.first()?.is_ascii_alphabetic()
                    || !(self.version_1_0 || line.ends_with(b" HTTP/1.1"))
                {
                    return None;
                }
                self.length = None;
                self.chunked = false;
                self.state = State::Header;
            }
            State::Header if line.is_empty() => {
                self.state = match self.length {
                    Some(0) | None if !self.chunked => State::RequestLine,
                    Some(length) => State::Sized(length),
                    None => State::ChunkSize,
                };
            }
            State::Header => self.header(line)?,
            State::ChunkSize => {
                let digits = !line.is_empty() && line.len() <= 15 && line.iter().all(u8::is_ascii_hexdigit);
                let size = std::str::from_utf8(line).ok().filter(|_| digits)?;
                self.state = match u64::from_str_radix(size, 16).ok()? {
                    0 => State::LastChunkEnd,
                    size => State::ChunkData(size),
                };
            }
            State::ChunkEnd if line.is_empty() => self.state = State::ChunkSize,
            State::LastChunkEnd if line.is_empty() => self.state = State::RequestLine,
            _ => return None,
        }
        Some(())
    }

    fn header(&mut self, line: &[u8]) -> Option<()> {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            // A folded line starts with a space, which is no token.
            return None;
        }
        let value = value.strip_prefix(b":")?.trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some()
                || self.chunked
                || value.len() > 18
                || !value.iter().all(u8::is_ascii_digit)
            {
                return None;
            }
            self.length = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked
                || self.length.is_some()
                || self.version_1_0
                || !value.eq_ignore_ascii_case(b"chunked")
            {
                return None;
            }
            self.chunked = true;
        }
        Some(())
    }
}

/// `tchar` of RFC 9110, section 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Result<State, Ambiguous> {
        let mut inspector = Inspector::new(1024);
        inspector.inspect(bytes).map(|()| inspector.state)
    }

    const GOOD: &[&str] = &[
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n\n\r\0",
        "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\ncontent-length:0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ];

    const AMBIGUOUS: &[(&str, &str)] = &[
        ("both", "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("both, other order", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"),
        ("two equal lengths", "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n"),
        ("list of lengths", "POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n"),
        ("signed length", "POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n"),
        ("no length", "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n"),
        ("length too long", "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"),
        ("two encodings", "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (
            "encoding twice",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        ("hidden encoding", "POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n"),
        ("space before colon", "POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n"),
        ("chunked in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("folding", "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n"),
        ("bare LF", "GET / HTTP/1.1\nHost: a\n\n"),
        ("bare LF in a head", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
        ("bare CR", "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n"),
        ("no name", "GET / HTTP/1.1\r\n: a\r\n\r\n"),
        ("empty line first", "\r\nGET / HTTP/1.1\r\n\r\n"),
        ("fragment", "GET /a#b HTTP/1.1\r\n\r\n"),
        ("HTTP/0.9", "GET /\r\n\r\n"),
        ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("chunk extension", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n"),
        ("chunk size 0x", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n"),
        ("chunk ended by LF", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n"),
        (
            "chunk longer than it says",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        ),
        ("trailer", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n\r\n"),
    ];

    #[test]
    fn plain_requests_pass_and_end_between_requests() {
        for request in GOOD {
            assert_eq!(whole(request.as_bytes()), Ok(State::RequestLine), "{request:?}");
        }
    }

    #[test]
    fn ambiguity_is_found_also_behind_another_request() {
        for (name, request) in AMBIGUOUS {
            assert!(whole(request.as_bytes()).is_err(), "{name}");
            for before in GOOD {
                let offset = whole(format!("{before}{request}").as_bytes()).unwrap_err().offset;
                assert!(offset >= before.len(), "{name}: the request before it must pass");
            }
        }
    }

    #[test]
    fn an_overlong_line_is_left_to_the_parser_and_never_ends() {
        assert_eq!(whole(&[b'a'; 2000]), Ok(State::Overlong));
        let mut inspector = Inspector::new(1024);
        assert_eq!(inspector.inspect(&[b'a'; 2000]), Ok(()));
        assert_eq!(inspector.inspect(&[b'a'; 2000]), Ok(()));
        assert_eq!(inspector.inspect(b"aa\r\n\r\nGET / HTTP/1.1\r\n"), Err(Ambiguous { offset: 3 }));
        // Between chunks there is no such line: the parser would count zeros for ever.
        let zeros = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}", "0".repeat(2000));
        assert!(whole(zeros.as_bytes()).is_err());
    }

    proptest! {
        /// How the network cuts the bytes makes no difference.
        #[test]
        fn pieces_are_judged_like_the_whole(
            picks in prop::collection::vec((0..GOOD.len(), 0..AMBIGUOUS.len() * 3), 1..4),
            cuts in prop::collection::vec(1usize..40, 1..50),
        ) {
            let mut text = String::new();
            for (good, bad) in picks {
                text.push_str(GOOD[good]);
                if let Some((_, request)) = AMBIGUOUS.get(bad) {
                    text.push_str(request);
                }
            }
            let mut inspector = Inspector::new(1024);
            let mut rest = text.as_bytes();
            let mut pieces = Ok(());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || pieces.is_err() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                pieces = inspector.inspect(piece);
                rest = after;
            }
            prop_assert_eq!(pieces.is_err(), whole(text.as_bytes()).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = whole(&bytes);
        }
    }
}
