package audit_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/audit"
)

// What an Object writes is what encoding/json reads, and the Opt methods leave out what reads as zero anyway.
func TestAnEventIsTheJSONThatOthersRead(t *testing.T) {
	type event struct {
		Type, Str, OptStr string
		Strs, OptStrs     []string
		Uint, OptUint     uint64
		OptBool           bool
		Hash, OptHash     audit.Hash
		Time              time.Time
		Raw               json.RawMessage
		Millionths        json.Number
	}
	rapid.Check(t, func(t *rapid.T) {
		hash := func(label string) audit.Hash {
			return audit.Hash(rapid.SliceOfN(rapid.ByteRange(0, 1), 32, 32).Draw(t, label))
		}
		texts := rapid.SliceOfN(nasty, 0, 3)
		want := event{
			"a.b", nasty.Draw(t, "str"), nasty.Draw(t, "opt str"), texts.Draw(t, "strs"), texts.Draw(t, "opt strs"),
			rapid.Uint64().Draw(t, "uint"), rapid.Uint64Range(0, 1).Draw(t, "opt uint"), rapid.Bool().Draw(t, "opt bool"),
			hash("hash"), hash("opt hash"), time.UnixMicro(rapid.Int64Range(0, 1e15).Draw(t, "time")).UTC(), json.RawMessage(`{"x":[1]}`), "",
		}
		m := rapid.Uint32Range(0, 2_000_000).Draw(t, "millionths")
		b := audit.Event([]byte("kept "), want.Type).Str("Str", want.Str).OptStr("OptStr", want.OptStr).Strs("Strs", want.Strs).OptStrs("OptStrs", want.OptStrs).
			Uint("Uint", want.Uint).OptUint("OptUint", want.OptUint).OptBool("OptBool", want.OptBool).Hash("Hash", want.Hash).OptHash("OptHash", want.OptHash).
			Time("Time", want.Time).Raw("Raw", want.Raw).Millionths("Millionths", m).End()
		var got event
		if err := json.Unmarshal(b[len("kept "):], &got); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		number, err := got.Millionths.Float64()
		if want := fmt.Sprintf("%d.%06d", m/1_000_000, m%1_000_000); err != nil || fmt.Sprintf("%.6f", number) != want {
			t.Fatalf("%d millionths are written %s, want %s", m, got.Millionths, want)
		}
		got.Millionths = ""
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", b, diff)
		}
	})
}

// docs/design.md: "Unknown version or type on read stops; it is never skipped."
func TestAnUnknownEventStopsTheReader(t *testing.T) {
	type joined struct {
		Agent string `json:"agent"`
	}
	readers := audit.Readers[any]{"session.joined": audit.Reader(func(e joined) any { return e })}
	got, err := readers.Parse([]byte(`[{"type":"session.joined","agent":"ann"},{"type":"session.joined"}]`))
	if diff := cmp.Diff([]any{joined{"ann"}, joined{}}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{
		`[{"type":"session.forgotten"}]`,
		`[{"type":"session.joined","agent":"ann"},{"type":""}]`,
		`[{"type":"session.joined","agent":"ann","more":1}]`,
		`[{"type":"session.joined","agent":7}]`,
		`[{"agent":"ann","type":"session.joined"}]`,
		`[{"type":"session.joined","type":"session.joined"}]`,
		`[{}]`, `[7]`, `{}`, `[`, ``,
	} {
		if got, err := readers.Parse([]byte(bad)); !errors.Is(err, audit.ErrEvent) {
			t.Errorf("%s was read as %v, %v", bad, got, err)
		}
	}
}
