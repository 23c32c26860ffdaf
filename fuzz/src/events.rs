use matome_connector::websocket::{Event, take_apart};

/// Server-sent events: in pieces and whole they are the same, and what a second, simpler reader finds in the whole text.
pub fn events(bytes: &[u8]) {
    let whole = take_apart(1 << 20, [bytes]);
    let length = usize::from(bytes.first().copied().unwrap_or_default() % 7) + 1;
    for length in [length, 1] {
        assert_eq!(take_apart(1 << 20, bytes.chunks(length)), whole, "in pieces of {length} bytes");
    }
    assert_eq!(whole, simply(bytes));
    // A limit cuts bodies, and changes nothing else.
    let cut = take_apart(8, bytes.chunks(length));
    assert_eq!(cut.len(), whole.len());
    for (cut, whole) in cut.iter().zip(&whole) {
        assert_eq!(cut.size, whole.size);
        assert!(whole.size > 8 || cut == whole, "{cut:?} of {whole:?}");
    }
}

fn simply(bytes: &[u8]) -> Vec<Event> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    // One byte for each kind of line end.
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    let mut rest = bytes.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b'\r' | b'\n' => {
                if byte == b'\r' {
                    rest.next_if_eq(&b'\n');
                }
                lines.push(Vec::new());
            }
            byte => lines.last_mut().unwrap().push(byte),
        }
    }
    lines.pop();
    let (mut found, mut data, mut event, mut id, mut has_id) = (Vec::new(), Vec::<Vec<u8>>::new(), None, None, false);
    for line in lines {
        if line.is_empty() {
            let body = data.join(&b'\n');
            let event = event.take().filter(|event: &String| !event.is_empty());
            if std::mem::take(&mut has_id) || !data.is_empty() {
                let id = id.clone().filter(|id: &String| !id.is_empty());
                found.push(Event { size: body.len(), body, event, id });
            }
            data.clear();
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = colon.map_or((&line[..], &b""[..]), |at| (&line[..at], &line[at + 1..]));
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = || String::from_utf8_lossy(value).into_owned();
        match name {
            b"data" => data.push(value.to_vec()),
            b"event" => event = Some(text()),
            b"id" if !value.contains(&0) && value.len() <= 1024 => (id, has_id) = (Some(text()), true),
            _ => {}
        }
    }
    found
}
