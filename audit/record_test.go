package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/audit"
)

// envelope is the record's form as a reader with encoding/json sees it: the oracle of our codec.
type envelope struct {
	V      int             `json:"v"`
	Stream string          `json:"stream"`
	Seq    uint64          `json:"seq"`
	Time   time.Time       `json:"time"`
	Caller audit.Caller    `json:"caller"`
	Trace  string          `json:"trace"`
	Prev   audit.Hash      `json:"prev"`
	Events json.RawMessage `json:"events"`
}

// nasty is text full of what JSON has to escape or must not.
var nasty = rapid.OneOf(
	rapid.String(),
	rapid.StringOfN(rapid.RuneFrom([]rune("\"\\/<>&\u0000\u0001\b\f\n\r\t\u007f\u2028\u2029\ufffdaé€😀")), -1, 40, -1),
	rapid.StringMatching(`did:mesh:[a-z]{1,12}`),
)

var records = rapid.Custom(func(t *rapid.T) audit.Record {
	events, err := json.Marshal([]map[string]string{{"type": nasty.Draw(t, "type"), "reason": nasty.Draw(t, "reason")}})
	if err != nil {
		t.Fatal(err)
	}
	const year0, year9999 = -62_167_219_200, 253_402_300_799
	return audit.Record{
		Stream: nasty.Draw(t, "stream"),
		Seq:    rapid.Uint64Range(0, 9_999_999_999_999_999_999).Draw(t, "seq"),
		Time:   time.Unix(rapid.Int64Range(year0, year9999).Draw(t, "second"), 1000*rapid.Int64Range(0, 999_999).Draw(t, "µs")).UTC(),
		Caller: audit.Caller{DID: nasty.Draw(t, "did"), Role: nasty.Draw(t, "role"), Via: nasty.Draw(t, "via")},
		Trace:  nasty.Draw(t, "trace"),
		Prev:   audit.Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "prev")),
		Events: events,
	}
})

func TestARecordIsTheJSONThatOthersRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := records.Draw(t, "record")
		body := r.Append(nil)
		var got envelope
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&got); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		want := envelope{1, r.Stream, r.Seq, r.Time, r.Caller, r.Trace, r.Prev, r.Events}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", body, diff)
		}
	})
}

func TestARecordComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := records.Draw(t, "record")
		got, err := audit.ParseRecord(r.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// The bytes are hashed and kept for years, so they are fixed here to the letter.
func TestARecordsBytes(t *testing.T) {
	r := audit.Record{
		Stream: "session/s1", Seq: 7, Time: time.Date(2026, 1, 2, 16, 4, 5, 60_999, time.FixedZone("", 3600)),
		Caller: audit.Caller{DID: "did:mesh:ann", Role: "agent", Via: "stdio"}, Trace: "00-x-y-01",
		Prev: audit.Hash{0xab, 31: 0xcd}, Events: []byte(`[{"type":"action.admitted"}]`),
	}
	want := `{"v":1,"stream":"session/s1","seq":7,"time":"2026-01-02T15:04:05.000060Z","caller":{"did":"did:mesh:ann","role":"agent","via":"stdio"},` +
		`"trace":"00-x-y-01","prev":"ab` + strings.Repeat("0", 60) + `cd","events":[{"type":"action.admitted"}]}`
	if got := string(r.Append([]byte("kept "))); got != "kept "+want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

const sampleRecord = `{"v":1,"stream":"session/s1","seq":7,"time":"2026-01-02T15:04:05.000060Z","caller":{"did":"did:mesh:ann","role":"agent","via":"stdio"},` +
	`"trace":"00-x-y-01","prev":"abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789","events":[{"type":"action.admitted"}]}`

// notRecords are texts that JSON may hold to be the sample record, or nearly, and that are not as Append writes it.
var notRecords = map[string]string{
	"a blank":                   strings.Replace(sampleRecord, `"v":1,`, `"v":1, `, 1),
	"a line end":                sampleRecord + "\n",
	"something behind it":       sampleRecord + "{}",
	"another order":             strings.Replace(sampleRecord, `"v":1,"stream":"session/s1",`, `"stream":"session/s1","v":1,`, 1),
	"a field twice":             strings.Replace(sampleRecord, `"v":1,`, `"v":1,"v":1,`, 1),
	"a field more":              strings.Replace(sampleRecord, `"trace":`, `"more":1,"trace":`, 1),
	"no version":                strings.Replace(sampleRecord, `"v":1,`, ``, 1),
	"a newer version":           strings.Replace(sampleRecord, `"v":1`, `"v":2`, 1),
	"a much newer version":      strings.Replace(sampleRecord, `"v":1`, `"v":10`, 1),
	"a padded number":           strings.Replace(sampleRecord, `"seq":7`, `"seq":07`, 1),
	"a signed number":           strings.Replace(sampleRecord, `"seq":7`, `"seq":+7`, 1),
	"a number with a fraction":  strings.Replace(sampleRecord, `"seq":7`, `"seq":7.0`, 1),
	"a number beyond 64 bits":   strings.Replace(sampleRecord, `"seq":7`, `"seq":18446744073709551617`, 1),
	"an escape for a letter":    strings.Replace(sampleRecord, `session/s1`, `session\/s1`, 1),
	"an escape for a letter, u": strings.Replace(sampleRecord, `session/s1`, `session/\u0073`+`1`, 1),
	"a short escape":            strings.Replace(sampleRecord, `stdio`, `std\nio`, 1),
	"an escape in capitals":     strings.Replace(sampleRecord, `stdio`, `std\u001Fio`, 1),
	"a raw control character":   strings.Replace(sampleRecord, `stdio`, "std\nio", 1),
	"a raw line separator":      strings.Replace(sampleRecord, `stdio`, "std\u2028io", 1),
	"invalid UTF-8":             strings.Replace(sampleRecord, `stdio`, "std\xffio", 1),
	"half a surrogate pair":     strings.Replace(sampleRecord, `stdio`, `std\ud800io`, 1),
	"a string without end":      `{"v":1,"stream":"session/s1\`,
	"a comma in the time":       strings.Replace(sampleRecord, `05.000060Z`, `05,000060Z`, 1),
	"no microseconds":           strings.Replace(sampleRecord, `05.000060Z`, `05Z`, 1),
	"nanoseconds":               strings.Replace(sampleRecord, `05.000060Z`, `05.000060000Z`, 1),
	"another zone":              strings.Replace(sampleRecord, `05.000060Z`, `05.0000+00Z`, 1),
	"a leap second":             strings.Replace(sampleRecord, `04:05.`, `04:60.`, 1),
	"the 30th of February":      strings.Replace(sampleRecord, `2026-01-02`, `2026-02-30`, 1),
	"midnight as 24":            strings.Replace(sampleRecord, `T15:04:05`, `T24:00:00`, 1),
	"a hash in capitals":        strings.Replace(sampleRecord, `"prev":"ab`, `"prev":"AB`, 1),
	"half a hash":               strings.Replace(sampleRecord, `"prev":"abcdef0123456789`, `"prev":"`, 1),
	"no events":                 strings.Replace(sampleRecord, `[{"type":"action.admitted"}]`, `[]`, 1),
	"events that are no array":  strings.Replace(sampleRecord, `[{"type":"action.admitted"}]`, `{"type":"action.admitted"}`, 1),
	"events that are null":      strings.Replace(sampleRecord, `[{"type":"action.admitted"}]`, `null`, 1),
	"a field behind the events": strings.Replace(sampleRecord, `}]}`, `}],"more":1}`, 1),
	"nothing":                   "",
	"null":                      "null",
}

// docs/design.md: "Unknown version or type on read stops; it is never skipped."
func TestWhatAppendDoesNotWriteIsNotRead(t *testing.T) {
	if _, err := audit.ParseRecord([]byte(sampleRecord)); err != nil {
		t.Fatalf("the sample itself: %v", err)
	}
	for name, text := range notRecords {
		if text == sampleRecord {
			t.Fatalf("%s: the text is the sample's", name)
		}
		if r, err := audit.ParseRecord([]byte(text)); !errors.Is(err, audit.ErrRecord) {
			t.Errorf("%s: %s\nwas read as %+v, %v", name, text, r, err)
		}
	}
	for n := range len(sampleRecord) {
		if _, err := audit.ParseRecord([]byte(sampleRecord[:n])); !errors.Is(err, audit.ErrRecord) {
			t.Errorf("the first %d bytes were read, %v", n, err)
		}
	}
}

// Two different texts never mean one record: what can be read is written again to the letter.
func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(sampleRecord))
	for _, text := range notRecords {
		f.Add([]byte(text))
	}
	f.Add([]byte(strings.Replace(sampleRecord, `stdio`, `std\u001fio\"\\\u2028é😀`, 1)))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := audit.ParseRecord(body)
		if err != nil {
			if !errors.Is(err, audit.ErrRecord) {
				t.Fatalf("error is not ErrRecord: %v", err)
			}
			return
		}
		if again := r.Append(nil); !bytes.Equal(again, body) {
			t.Fatalf("read   %q\nwrites %q", body, again)
		}
	})
}

func TestAStringMeansWhatEncodingJSONMeans(t *testing.T) {
	check := func(t rapid.TB, s string) {
		text := audit.AppendString(nil, s)
		var got, want string
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		oracle, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(oracle, &want); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("%q is written %s and read as %q, want %q", s, text, got, want)
		}
		if bytes.ContainsAny(text, "\n\r\u2028\u2029") {
			t.Fatalf("%q is written over several lines: %q", s, text)
		}
	}
	for c := range rune(0x3000) {
		check(t, string(c))
	}
	rapid.Check(t, func(t *rapid.T) { check(t, nasty.Draw(t, "s")) })
	rapid.Check(t, func(t *rapid.T) { check(t, string(rapid.SliceOf(rapid.Byte()).Draw(t, "invalid"))) })
}

func TestATimeIsOfMicrosecondsInUTC(t *testing.T) {
	for _, c := range []struct {
		t    time.Time
		want string
	}{
		{time.Time{}, "0001-01-01T00:00:00.000000Z"},
		{time.Unix(0, 999).UTC(), "1970-01-01T00:00:00.000000Z"},
		{time.Unix(0, 1999), "1970-01-01T00:00:00.000001Z"},
		{time.Date(1969, 12, 31, 23, 59, 59, 999_999_999, time.UTC), "1969-12-31T23:59:59.999999Z"},
		{time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC), "9999-12-31T23:59:59.999999Z"},
		{time.Date(2024, 2, 29, 1, 2, 3, 4000, time.FixedZone("", -90*60)), "2024-02-29T02:32:03.000004Z"},
	} {
		if got := string(audit.AppendTime(nil, c.t)); got != `"`+c.want+`"` {
			t.Errorf("%v is written %s, want %s", c.t, got, c.want)
		}
	}
}

func sample() audit.Record {
	r, err := audit.ParseRecord([]byte(sampleRecord))
	if err != nil {
		panic(err)
	}
	r.Events = []byte(`[{"type":"action.admitted","pad":"` + strings.Repeat("x", 260) + `"}]`)
	return r
}

func BenchmarkRecordAppend(b *testing.B) {
	r := sample()
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = r.Append(dst[:0])
	}
	b.SetBytes(int64(len(dst)))
}

func BenchmarkParseRecord(b *testing.B) {
	r := sample()
	body := r.Append(nil)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := audit.ParseRecord(body); err != nil {
			b.Fatal(err)
		}
	}
}
