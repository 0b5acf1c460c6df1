package gateway

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestHiddenCharactersAreReplacedAndWhatWritingNeedsStays(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"plain", "read a file\n\tand more\r\n", ""},
		{"bidi override", "safe\u202etxt.exe", "safe\uFFFDtxt.exe"},
		{"isolates", "a\u2066b\u2069c", "a\uFFFDb\uFFFDc"},
		{"tags that spell an order", "hi\U000e0069\U000e0067\U000e006e", "hi\uFFFD"},
		{"zero width in ASCII", "ig\u200bno\u200cre\u200d", "ig\uFFFDno\uFFFDre\uFFFD"},
		{"ANSI", "\x1b[2Jgone", "\uFFFD[2Jgone"},
		{"C1 and DEL", "a\u009b31mb\x7f", "a\uFFFD31mb\uFFFD"},
		{"backspace and form feed", "a\bb\fc", "a\uFFFDb\uFFFDc"},
		{"bytes in variation selectors", "x\ufe01\ufe0f\U000e0100\U000e0101", "x\uFFFD"},
		{"a filler", "a\u3164b\u115fc", "a\uFFFDb\uFFFDc"},
		{"mark at the start", "\ufefftext", ""},
		{"mark inside", "te\ufeffxt", "te\uFFFDxt"},
		{"family", "\U0001F468\u200d\U0001F469\u200d\U0001F467", ""},
		{"heart", "❤\ufe0f and 1\ufe0f\u20e3", ""},
		{"a couple", "\U0001F469\u200d❤\ufe0f\u200d\U0001F468", ""},
		{"Persian", "می\u200cخواهم", ""},
		{"Arabic number sign", "\u0600\u0661", ""},
		{"Han, Cyrillic, accents", "漢字 файл é ё", ""},
		{"replaced already", "a\uFFFDb", ""},
	} {
		if tt.want == "" {
			tt.want = tt.in
		}
		if got := neutralText(tt.in); got != tt.want || !utf8.ValidString(got) {
			t.Errorf("%s: %+q, want %+q", tt.name, got, tt.want)
		}
		text, err := json.Marshal(map[string]any{tt.in + "x": []any{tt.in, 12345678901234567890.0}})
		if err != nil {
			t.Fatal(err)
		}
		got, found := neutralise(text)
		if found != (tt.in != tt.want) || !found && string(got) != string(text) {
			t.Errorf("%s: found %v in %s", tt.name, found, text)
		}
		if found && (strings.Contains(string(got), tt.in) || !json.Valid(got)) {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
}

func TestWhatIsReplacedIsMarkedAndTheRestIsByteForByte(t *testing.T) {
	in := `{"n":12345678901234567890123, "f":1.10,"text":"<&>\u202e","_meta":{"a":1}}`
	got, found := neutralised(json.RawMessage(in))
	if want := `{"n":12345678901234567890123,"f":1.10,"text":"<&>` + "\uFFFD" + `","_meta":{"a":1,"hypervisor/neutralised":true}}`; !found || string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
	clean := `{"text":"caf\u00e9 é",  "_meta":{}}`
	if got, found := neutralised(json.RawMessage(clean)); found || string(got) != clean {
		t.Errorf("%s", got)
	}
}

func FuzzNeutralise(f *testing.F) {
	f.Add("a\u202eb\U000e0061\u200d")
	f.Add("\x1b[0m\ufeff❤\ufe0f")
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			t.Skip("no JSON string")
		}
		once := neutralText(text)
		if again := neutralText(once); again != once {
			t.Errorf("%+q becomes %+q, and that %+q", text, once, again)
		}
		b, _ := json.Marshal([]string{text})
		got, found := neutralise(b)
		var out []string
		if err := json.Unmarshal(got, &out); err != nil || out[0] != once || found != (once != text) {
			t.Errorf("%s: %s, %v, %v; want %+q", b, got, found, err, once)
		}
	})
}
