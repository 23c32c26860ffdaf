//! What the encoding of a text is when nobody says.
//!
//! A short text is valid in many encodings, and what it would be in most of them nobody writes. So each encoding that it may be in is asked for
//! its text, and that is weighed: in bits, about as many as it takes to say which character comes next, by its kind and its
//! neighbours. The lightest reading wins. Japanese ones have a lead, since nothing else is likely to be half-width kana or kanji by chance.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{
    BIG5, DecoderResult, EUC_JP, Encoding, GB18030, GBK, ISO_2022_JP, SHIFT_JIS, UTF_8, UTF_16BE, UTF_16LE,
    WINDOWS_1252,
};

/// How much of a text is looked at from its first byte on that is not ASCII.
pub(super) const SEEN_BYTES: usize = 64 * 1024;
/// What stands before that byte tells what it is, too.
const BEFORE_BYTES: usize = 64;
/// How much lighter a Japanese reading may be taken.
const LEAD: i64 = 6;
/// A reading that is heavier by less than this might be meant as well.
const MARGIN: i64 = 8;
/// Of a byte that means nothing.
const MALFORMED: i64 = 60;

/// The encoding of a text by what it looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::file) struct Guess {
    pub(in crate::file) encoding: &'static Encoding,
    /// One in which it is another text that reads nearly as well.
    pub(in crate::file) rival: Option<&'static Encoding>,
}

impl Guess {
    fn sure(encoding: &'static Encoding) -> Self {
        Self { encoding, rival: None }
    }
}

/// What a text without a byte order mark looks like, by its beginning; `is_whole`: by all of it. Plain ASCII is UTF-8.
pub(in crate::file) fn guess(start: &[u8], is_whole: bool) -> Guess {
    if let Some(encoding) = utf16(start) {
        return Guess::sure(encoding);
    }
    let Some(first) = start.iter().position(|byte| !byte.is_ascii()) else {
        return Guess::sure(if is_iso_2022_jp(start, is_whole) { ISO_2022_JP } else { UTF_8 });
    };
    let end = start.len().min(first + SEEN_BYTES);
    let (text, is_whole) = (&start[first.saturating_sub(BEFORE_BYTES)..end], is_whole && end == start.len());
    match std::str::from_utf8(text) {
        Ok(_) => return Guess::sure(UTF_8),
        Err(error) if error.error_len().is_none() && !is_whole && error.valid_up_to() > 0 => return Guess::sure(UTF_8),
        Err(_) => {}
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(text, is_whole);
    let other = detector.guess(None, Utf8Detection::Deny);
    // The first of equals.
    let readings =
        [SHIFT_JIS, EUC_JP, other, WINDOWS_1252, UTF_8].map(|encoding| Reading::of(encoding, text, is_whole));
    let best = readings.iter().reduce(|best, next| if next.bits < best.bits { next } else { best });
    let Some(best) = best else { return Guess::sure(UTF_8) };
    let is_rival = |other: &&Reading| {
        other.malformed == 0
            && other.text != best.text
            && other.encoding != best.encoding
            && other.bits < best.bits + MARGIN
    };
    let rival = readings.iter().filter(is_rival).min_by_key(|other| other.bits).map(|other| other.encoding);
    Guess { encoding: best.encoding, rival }
}

/// The Japanese encoding in which `bytes` read better than they do `otherwise`.
pub(in crate::file) fn japanese(bytes: &[u8], otherwise: &str) -> Option<&'static Encoding> {
    let otherwise: Vec<char> = otherwise.chars().collect();
    let bits: i64 = (0..otherwise.len()).map(|at| Script::Other.bits(&Place { text: &otherwise, at })).sum();
    let readings = [SHIFT_JIS, EUC_JP].map(|encoding| Reading::of(encoding, bytes, true));
    let better = readings.into_iter().filter(|reading| reading.malformed == 0 && reading.bits < bits);
    better.min_by_key(|reading| reading.bits).map(|reading| reading.encoding)
}

/// UTF-16, which detectors do not know: pages of the web are never that without a mark. Text of any language has many characters below
/// U+0100 there: spaces, digits, line breaks, delimiters.
fn utf16(start: &[u8]) -> Option<&'static Encoding> {
    let count = |odd: usize| start.iter().skip(odd).step_by(2).take(4096).filter(|byte| **byte == 0).count();
    let (even, odd, pairs) = (count(0), count(1), (start.len() / 2).min(4096));
    let is_it = pairs > 0 && even.max(odd) * 10 >= pairs && even.min(odd) * 20 <= even.max(odd);
    is_it.then_some(if odd > even { UTF_16LE } else { UTF_16BE })
}

/// Whether escape sequences in plain ASCII turn to other characters, and to nothing else.
fn is_iso_2022_jp(start: &[u8], is_whole: bool) -> bool {
    let Some(first) = start.iter().position(|byte| *byte == 0x1b) else { return false };
    let end = start.len().min(first + SEEN_BYTES);
    let reading = Reading::of(ISO_2022_JP, &start[first..end], is_whole && end == start.len());
    reading.malformed == 0 && reading.text.iter().any(|c| !c.is_ascii())
}

/// What a text is in an encoding.
struct Reading {
    encoding: &'static Encoding,
    text: Vec<char>,
    malformed: i64,
    bits: i64,
}

impl Reading {
    fn of(encoding: &'static Encoding, bytes: &[u8], is_whole: bool) -> Self {
        let (text, malformed) = decoded(encoding, bytes, is_whole);
        let script = Script::of(encoding);
        let lead = if script == Script::Japanese { LEAD } else { 0 };
        // Of two bytes there, which nobody writes who can write one.
        let rare = |c: &char| encoding == EUC_JP && ('\u{ff61}'..='\u{ff9f}').contains(c);
        let rare = text.iter().filter(|c| rare(c)).map(|_| 8).sum::<i64>();
        // A few small letters of KOI8 may as well be half-width kana; the more there are, the less.
        let few = text.iter().filter(|c| ('Ѐ'..='ӿ').contains(*c)).take(24).map(|_| 1).sum::<i64>();
        let bits = rare + few + (0..text.len()).map(|at| script.bits(&Place { text: &text, at })).sum::<i64>();
        Self { encoding, text, malformed, bits: bits + malformed * MALFORMED - lead }
    }
}

fn decoded(encoding: &'static Encoding, mut bytes: &[u8], is_whole: bool) -> (Vec<char>, i64) {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut text = String::with_capacity(bytes.len() * 3 + 16);
    let mut malformed = 0;
    loop {
        let (result, read) = decoder.decode_to_string_without_replacement(bytes, &mut text, is_whole);
        bytes = &bytes[read..];
        match result {
            DecoderResult::InputEmpty => break,
            DecoderResult::OutputFull => text.reserve(bytes.len() * 3 + 16),
            DecoderResult::Malformed(..) => malformed += 1,
        }
    }
    (text.chars().collect(), malformed)
}

/// What the texts of an encoding are written in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    Japanese,
    Chinese(&'static Encoding),
    Other,
}

/// A character among its neighbours.
struct Place<'t> {
    text: &'t [char],
    at: usize,
}

impl Place<'_> {
    fn here(&self) -> char {
        self.text[self.at]
    }

    /// NUL at the beginning.
    fn before(&self) -> char {
        self.at.checked_sub(1).map_or('\0', |at| self.text[at])
    }

    /// NUL at the end.
    fn behind(&self) -> char {
        self.text.get(self.at + 1).copied().unwrap_or_default()
    }

    /// How many neighbours are what `is_such` says.
    fn count(&self, is_such: impl Fn(char) -> bool) -> i64 {
        i64::from(is_such(self.before())) + i64::from(is_such(self.behind()))
    }
}

impl Script {
    fn of(encoding: &'static Encoding) -> Self {
        match encoding {
            _ if [SHIFT_JIS, EUC_JP, ISO_2022_JP].contains(&encoding) => Self::Japanese,
            _ if [GBK, GB18030, BIG5].contains(&encoding) => Self::Chinese(encoding),
            _ => Self::Other,
        }
    }

    /// How unlikely a character is at its place.
    fn bits(self, place: &Place) -> i64 {
        let c = place.here();
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | ' '..='/' | ':'..='?' | '\t' | '\n' | '\r' => 5,
            // They are second bytes, and rare besides.
            '@'..='`' | '{'..='~' => 8,
            '\0'..='\u{9f}' => 40,
            'ぁ'..='ん' | 'ァ'..='ヶ' | '、'..='。' | '々' | '「'..='」' | '・' | 'ー' => 8,
            '\u{ff61}'..='\u{ff9f}' => half_width(place),
            '一'..='龥' if self == Self::Japanese => {
                let level = level_of(c, SHIFT_JIS);
                let is_beside_space = level > 1 && place.count(|other| other == ' ') > 0;
                let latin = place.count(|other| other.is_ascii_lowercase()) * 10
                    + place.count(|other| other.is_ascii_uppercase()) * 4;
                let by_level = match level {
                    1 => 12,
                    2 => 17,
                    _ => 20,
                };
                by_level + latin + if is_beside_space { 6 } else { 0 }
            }
            '一'..='龥' => match self {
                // As a Japanese reading without its lead, and a little more.
                Self::Chinese(encoding) => match level_of(c, encoding) {
                    1 => 13,
                    2 => 17,
                    _ => 20,
                },
                _ => 20,
            },
            '가'..='힣' => 10,
            '\u{3000}'..='\u{303f}' => 11 + place.count(|other| other.is_ascii_lowercase()) * 6,
            '\u{ff01}'..='\u{ff60}' | '\u{ffe0}'..='\u{ffe6}' => 11,
            'À'..='Ö' | 'Ø'..='ö' | 'ø'..='ɏ' | 'Ạ'..='ỹ' => accented(place),
            'Ѐ'..='ӿ' | 'Ͱ'..='Ͽ' if self == Self::Japanese => 18,
            'Ѐ'..='ӿ' => cased(place, 5),
            'Ͱ'..='Ͽ' => cased(place, 6),
            '\u{590}'..='\u{6ff}' | '\u{e00}'..='\u{e7f}' => 7 + place.count(|other| other.is_ascii_alphabetic()) * 10,
            '’' | '‘' => apostrophe(place),
            '“' | '„' if !place.before().is_alphanumeric() && place.behind().is_alphanumeric() => 10,
            '”' if !place.before().is_whitespace() && !place.behind().is_alphanumeric() => 10,
            '–' | '—' | '\u{a0}' => 10,
            '…' | '•' | '€' | '™' | '°' | '«' | '»' | '§' | '©' | '®' | '£' | '¿' | '¡' => {
                if place.count(char::is_alphabetic) == 2 { 18 } else { 10 }
            }
            '¢' | '¥' | '±' | '²' | '³' | '´' | 'µ' | '·' | 'º' | 'ª' | '¼' | '½' | '¾' | '×' | '÷' => {
                14
            }
            '\u{e000}'..='\u{f8ff}' => 40,
            _ if self == Self::Japanese => 14,
            _ => 20,
        }
    }
}

/// The level that a character set gives a kanji: 1 for those that are used every day, 2 for others, 0 for those it does not have.
fn level_of(kanji: char, encoding: &'static Encoding) -> u8 {
    let mut buffer = [0; 4];
    let (bytes, _, is_none) = encoding.encode(kanji.encode_utf8(&mut buffer));
    let [high, low] = *bytes else { return 0 };
    let code = u16::from_be_bytes([high, low]);
    let levels = match encoding {
        _ if encoding == SHIFT_JIS => [0x889f..=0x9872, 0x989f..=0xeaa4],
        _ if encoding == BIG5 => [0xa440..=0xc67e, 0xc940..=0xf9d5],
        // Between them is what GB 2312 does not have.
        _ if low < 0xa1 => return 0,
        _ => [0xb0a1..=0xd7f9, 0xd8a1..=0xf7fe],
    };
    let level = levels.iter().zip([1, 2]).find(|(range, _)| !is_none && range.contains(&code));
    level.map_or(0, |(_, level)| level)
}

/// Half-width kana have a grammar: which of them a mark may follow, and what never comes first.
fn half_width(place: &Place) -> i64 {
    let is_kana = |c: char| ('\u{ff61}'..='\u{ff9f}').contains(&c);
    let (before, neighbours) = (place.before(), place.count(is_kana));
    let bits = match place.here() {
        '｡'..='･' => {
            if neighbours > 0 {
                9
            } else {
                20
            }
        }
        'ｧ'..='ｰ' if ('ｦ'..='\u{ff9f}').contains(&before) => 6,
        'ｧ'..='ｰ' => 20,
        '\u{ff9e}' if matches!(before, 'ｳ' | 'ｶ'..='ﾄ' | 'ﾊ'..='ﾎ') => 4,
        '\u{ff9f}' if matches!(before, 'ﾊ'..='ﾎ') => 4,
        '\u{ff9e}' | '\u{ff9f}' => 25,
        _ => 6,
    };
    let ends_field = |c: char| matches!(c, '\0' | ',' | ';' | '\t' | '|' | '"' | '\n' | '\r');
    let apart = match neighbours {
        0 if place.count(ends_field) == 2 => 4,
        0 => 16,
        _ => place.count(|other| other.is_ascii_lowercase()) * 8,
    };
    bits + apart
}

/// A letter of Latin script beyond ASCII.
fn accented(place: &Place) -> i64 {
    let (before, c, behind) = (place.before(), place.here(), place.behind());
    match c {
        'Ÿ' | 'Ð' | 'Þ' | 'ð' | 'þ' | 'ÿ' => 18,
        _ if place.count(|other| other.is_ascii_digit()) > 0 => 18,
        _ if !c.is_uppercase() && before.is_alphabetic() => 8,
        _ if !c.is_uppercase() => 10,
        _ if before.is_lowercase() => 18,
        _ if before.is_uppercase() || behind.is_alphabetic() => 9,
        _ => 11,
    }
}

/// A letter of Cyrillic or Greek script, of which a small one takes so many bits.
fn cased(place: &Place, small: i64) -> i64 {
    let (before, c) = (place.before(), place.here());
    let case = match c.is_uppercase() {
        true if before.is_lowercase() => 13,
        true if before.is_uppercase() => 3,
        true => 2,
        false => 0,
    };
    small + case + place.count(|other| other.is_ascii_alphabetic()) * 10
}

/// The sign in `don’t` and `l’eau`, or around a word.
fn apostrophe(place: &Place) -> i64 {
    let (before, behind) = (place.before().is_alphabetic(), place.behind().is_alphabetic());
    if !(before && behind) {
        return if before || behind { 11 } else { 14 };
    }
    let rest: String = place.text[place.at + 1..].iter().take_while(|c| c.is_alphabetic()).take(3).collect();
    let rest = rest.to_lowercase();
    let is_ending = matches!(rest.as_str(), "s" | "t" | "m" | "d" | "re" | "ve" | "ll");
    let is_word = rest.chars().count() > 1 && rest.starts_with(|c: char| !c.is_ascii() || "aeiouhy".contains(c));
    if is_ending || is_word { 7 } else { 16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, to: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(to).collect()
    }

    fn in_encoding(encoding: &'static Encoding, text: &str) -> Vec<u8> {
        let (bytes, _, failed) = encoding.encode(text);
        assert!(!failed, "{text} in {}", encoding.name());
        bytes.into_owned()
    }

    /// Short, as a file of master data may be.
    const JAPANESE: [&str; 24] = [
        "店,額\n東京,1",
        "店\n",
        "表,額\n",
        "氏名\n山田",
        "品名,数\nりんご,3\n",
        "ア\n",
        "あ",
        "コード\nA01\n",
        "①番\n",
        "金額(円)\n1200\n",
        "Webサイト\n",
        "A社,B型\n",
        "X線,Tシャツ\n",
        "{\"名\":\"佐藤\"}\n",
        "id\tname\n1\t鈴木\n",
        "鬱\n",
        "髙橋\n",
        "2026年1月31日\n",
        "メール\na@example.com\n",
        "第1章\n",
        "社\n1\n",
        "取引先,残高\n㈱東,-5\n",
        "区分,〒\n",
        "値\n",
    ];
    const HALF_WIDTH: [&str; 11] = [
        "ﾔﾏﾀﾞ ﾀﾛｳ\n",
        "ｶﾅ,ﾒｲ\nｻﾄｳ,ﾊﾅｺ\n",
        "ﾐｽﾞﾎ\n",
        "ｺｰﾄﾞ,ｷﾝｶﾞｸ\n01,100\n",
        "ｱｲｳｴｵ\n",
        "ｶ)ｽｽﾞｷ\n",
        "20001ﾐｽﾞﾎ          000000120020005",
        "ﾊﾟﾝ\n",
        "ｶｷｸｹｺ\nｻｼｽｾｿ\n",
        "ﾃｽﾄ\n",
        "ﾄｳｷｮｳﾄ\n",
    ];

    #[test]
    fn short_japanese_texts_are_told_whatever_they_are_encoded_in() {
        for text in JAPANESE {
            assert_eq!(guess(&in_encoding(SHIFT_JIS, text), true).encoding, SHIFT_JIS, "{text}");
            assert_eq!(guess(&in_encoding(ISO_2022_JP, text), true).encoding, ISO_2022_JP, "{text}");
            assert_eq!(guess(text.as_bytes(), true).encoding, UTF_8, "{text}");
        }
        for text in HALF_WIDTH {
            assert_eq!(guess(&in_encoding(SHIFT_JIS, text), true).encoding, SHIFT_JIS, "{text}");
            assert_eq!(guess(text.as_bytes(), true).encoding, UTF_8, "{text}");
        }
        for text in JAPANESE {
            let bytes = in_encoding(EUC_JP, text);
            // A few kanji in EUC-JP are half-width kana as well, and are taken for these.
            let other = SHIFT_JIS.decode_without_bom_handling_and_without_replacement(&bytes);
            if other.is_none_or(|other| other.chars().any(|c| !c.is_ascii() && !('｡'..='\u{ff9f}').contains(&c))) {
                assert_eq!(guess(&bytes, true).encoding, EUC_JP, "{text}");
            }
        }
        for text in JAPANESE.into_iter().chain(HALF_WIDTH).filter(|text| text.contains(['\n', ','])) {
            assert_eq!(guess(&utf16(text, u16::to_le_bytes), true).encoding, UTF_16LE, "{text}");
            assert_eq!(guess(&utf16(text, u16::to_be_bytes), true).encoding, UTF_16BE, "{text}");
        }
    }

    #[test]
    fn short_western_texts_stay_what_they_are() {
        for text in [
            "café",
            "café,1\n",
            "cafés\n",
            "naïve;über\n",
            "für\n",
            "Müller,1\n",
            "Größe\n",
            "Straße\n",
            "Élodie\n",
            "São Paulo\n",
            "não\n",
            "mère,père\n",
            "élève\n",
            "français\n",
            "España\n",
            "señor\n",
            "Zoë,Noël\n",
            "København\n",
            "Malmö\n",
            "Ångström\n",
            "don’t\n",
            "l’eau\n",
            "it’s 5 €\n",
            "“Yes”\n",
            "5 °C\n",
            "¿Qué?\n",
            "às 10h\n",
            "Žena\n",
            "10 × 20\n",
            "© 2026\n",
            "ÉCOLE ÉLÉMENTAIRE\n",
            "coração\n",
            "créée\n",
            "à la carte\n",
            "îles,âmes\n",
            "5 £\n",
            "±5\n",
            "3×4\n",
            "m²\n",
            "100 – 200\n",
            "Über\n",
        ] {
            let bytes = in_encoding(WINDOWS_1252, text);
            let found = guess(&bytes, true).encoding;
            assert_eq!(found.decode_without_bom_handling(&bytes).0, text, "as {}", found.name());
            assert_eq!(guess(text.as_bytes(), true).encoding, UTF_8, "{text}");
        }
    }

    #[test]
    fn longer_texts_of_other_scripts_stay_what_they_are() {
        let cases = [
            (encoding_rs::WINDOWS_1251, "имя,город\nИван,Москва\nПётр,Казань\nОльга,Санкт-Петербург\n"),
            (encoding_rs::KOI8_R, "имя,город\nиван,москва\nпетр,казань\nольга,нижний новгород\n"),
            (encoding_rs::EUC_KR, "이름,도시\n김철수,서울특별시\n이영희,부산광역시\n"),
            (GBK, "姓名,城市\n张伟,北京市\n王芳,上海市浦东新区，中国\n李娜,广州\n这是一个测试，没有问题。\n"),
            (BIG5, "姓名,城市\n王小明,臺北市\n李大華,高雄市\n這是一個測試，沒有問題。\n"),
            (encoding_rs::WINDOWS_1253, "όνομα,πόλη\nΓιώργος,Αθήνα\nΜαρία,Θεσσαλονίκη\n"),
            (encoding_rs::WINDOWS_1250, "jméno,město\nŽaneta,Plzeň\nJiří,České Budějovice\n"),
            (encoding_rs::WINDOWS_1252, "nom,ville\nÉlodie,Orléans\nFrançois,Besançon\nJérôme,Fécamp — 5 €\n"),
        ];
        for (encoding, text) in cases {
            let bytes = in_encoding(encoding, text);
            let found = guess(&bytes, true).encoding;
            assert_eq!(found.decode_without_bom_handling(&bytes).0, text, "{} as {}", encoding.name(), found.name());
        }
    }

    /// SplitMix64: the same texts on every machine.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            usize::try_from((value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33).unwrap() % limit
        }

        fn of(&mut self, chars: &[char]) -> char {
            chars[self.below(chars.len())]
        }
    }

    /// All that code page 932 writes with two bytes from `first` to `last`.
    fn characters(first: u16, last: u16) -> Vec<char> {
        let decode = |code: u16| {
            let bytes = code.to_be_bytes();
            let text = SHIFT_JIS.decode_without_bom_handling_and_without_replacement(&bytes)?;
            let mut chars = text.chars();
            chars.next().filter(|c| chars.next().is_none() && SHIFT_JIS.encode(&c.to_string()).0[..] == bytes)
        };
        (first..=last).filter_map(decode).collect()
    }

    #[test]
    fn fields_of_kana_and_kanji_in_code_page_932_are_read_in_it() {
        let kana = [characters(0x829f, 0x82f1), characters(0x8340, 0x8396)].concat();
        let level_1 = characters(0x889f, 0x9872);
        let level_2 = [characters(0x989f, 0x9ffc), characters(0xe040, 0xeaa4)].concat();
        assert_eq!((kana.len(), level_1.len(), level_2.len()), (169, 2965, 3390));
        let half: Vec<char> = ('ｱ'..='ﾝ').collect();
        for character in kana.iter().chain(&level_1) {
            let bytes = in_encoding(SHIFT_JIS, &format!("{character},1\n"));
            let found = guess(&bytes, true).encoding;
            assert_eq!(found, SHIFT_JIS, "{character} as {:?}", found.decode(&bytes).0);
        }
        let mut random = Random(5);
        for round in 0..4000 {
            let fields = 1 + random.below(4);
            let fields: Vec<String> = (0..fields)
                .map(|_| {
                    let length = 1 + random.below(6);
                    match random.below(8) {
                        0 => (0..length).map(|_| char::from(b'0' + u8::try_from(random.below(10)).unwrap())).collect(),
                        1 => "name".to_owned(),
                        2 => (0..=length).map(|_| random.of(&half)).collect(),
                        3 => (0..length).map(|_| random.of(&kana)).collect(),
                        4 => [random.of(&level_2), random.of(&level_1)].into_iter().collect(),
                        // Of the second level are one in a hundred in real texts.
                        _ => (0..length)
                            .map(|_| {
                                let level = if random.below(8) == 0 { &level_2 } else { &level_1 };
                                random.of(level)
                            })
                            .collect(),
                    }
                })
                .collect();
            let text = fields.join(",") + "\n";
            let bytes = in_encoding(SHIFT_JIS, &text);
            // What is UTF-8 as it stands is that.
            if text.is_ascii() || std::str::from_utf8(&bytes).is_ok() {
                continue;
            }
            let found = guess(&bytes, true);
            assert_eq!(found.encoding, SHIFT_JIS, "round {round}: {text:?} as {:?}", found.encoding.decode(&bytes).0);
        }
    }

    #[test]
    fn a_bad_byte_does_not_turn_a_text_into_another() {
        let text = "名前,住所,備考\nソース表,東京都千代田区,能登のソースは十分です。\n".repeat(3);
        for (encoding, bad) in [(SHIFT_JIS, b"\x81\xff,x\n"), (EUC_JP, b"\xff\xff,x\n"), (UTF_8, b"\xe3\xff,x\n")] {
            let bytes = [&in_encoding(encoding, &text)[..], bad, &in_encoding(encoding, &text)].concat();
            assert_eq!(guess(&bytes, true).encoding, encoding);
        }
    }

    #[test]
    fn what_may_be_two_things_is_told() {
        // `p値`, and an apostrophe between letters.
        assert_eq!(guess(b"n\x92m\n", true).rival, Some(SHIFT_JIS));
        assert_eq!(guess(&in_encoding(SHIFT_JIS, JAPANESE[0]), true).rival, None);
        assert_eq!(guess(&in_encoding(WINDOWS_1252, "café,1\n"), true).rival, None);
    }

    #[test]
    fn plain_text_and_what_is_cut_off_is_read_as_it_begins() {
        for plain in [&b"plain\n"[..], b"", b"\x1b[31mred\x1b[0m\n", &[b"{\"a\":1}\n".as_slice(), &[0; 512]].concat()] {
            assert_eq!(guess(plain, true).encoding, UTF_8);
        }
        let text = "名前,住所\n東京都,千代田区\n";
        for encoding in [UTF_8, SHIFT_JIS, EUC_JP] {
            let bytes = in_encoding(encoding, text);
            for end in bytes.len() - 4..bytes.len() {
                assert_eq!(guess(&bytes[..end], false).encoding, encoding, "{end} bytes");
            }
        }
    }
}
