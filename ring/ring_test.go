package ring

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// SPEC §2: "σ_eff > 0.95 → 1, > 0.60 → 2, else 3"; §0: all thresholds are strict where written >.
func TestThresholdsAreStrict(t *testing.T) {
	for _, c := range []struct {
		score string
		want  Ring
	}{
		{"0", Sandbox}, {"0.6", Sandbox}, {"0.600001", Standard}, {"0.95", Standard}, {"0.950001", Privileged}, {"1", Privileged},
	} {
		if got := ByScore(MustSigma(c.score)); got != c.want {
			t.Errorf("ByScore(%s) = %d, want %d", c.score, got, c.want)
		}
	}
}

// SPEC §2: "ring = max(ceilings, …)".
func TestCeilingLowersAndNeverLifts(t *testing.T) {
	for _, c := range []struct {
		score   string
		ceiling Ring
		want    Ring
	}{
		{"0.99", Root, Privileged}, {"0.99", Sandbox, Sandbox}, {"0.10", Privileged, Sandbox}, {"0.70", Standard, Standard},
	} {
		if got := Of(MustSigma(c.score), c.ceiling); got != c.want {
			t.Errorf("Of(%s, %d) = %d, want %d", c.score, c.ceiling, got, c.want)
		}
	}
}

func TestSigmaText(t *testing.T) {
	for text, want := range map[string]string{"0": "0.00", "1": "1.00", "0.8": "0.80", "0.123456": "0.123456", "0.5000": "0.50", "1.000000": "1.00"} {
		s, err := ParseSigma(text)
		if err != nil || s.String() != want {
			t.Errorf("ParseSigma(%q) = %s, %v; want %s", text, s, err, want)
		}
	}
	for _, bad := range []string{"", "2", "1.000001", "-0.1", "0.", ".5", "0.1234567", "1e-1", "0,5", "NaN", "0.5 "} {
		if _, err := ParseSigma(bad); err == nil {
			t.Errorf("ParseSigma(%q) gave no error", bad)
		}
	}
}

func TestSigmaJSONRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Sigma(rapid.Uint32Range(0, uint32(One)).Draw(t, "s"))
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back Sigma
		if err := json.Unmarshal(b, &back); err != nil || back != s {
			t.Fatalf("%s came back as %s, %v", b, back, err)
		}
	})
}

// SPEC §2, the table of limits.
func TestLimitsAreTheTable(t *testing.T) {
	want := []Limits{
		{100, 200, 32, Full, Full, Full},
		{50, 100, 16, Full, Full, Full},
		{20, 40, 8, Scoped, Scoped, None},
		{5, 10, 2, None, None, None},
	}
	for r, w := range want {
		if got := Ring(r).Limits(); got != w {
			t.Errorf("ring %d: %+v, want %+v", r, got, w)
		}
	}
}

func TestBucketGivesBurstThenRate(t *testing.T) {
	now := time.Unix(1_000, 0)
	var b Bucket
	taken := func() (n int) {
		for {
			next, wait, ok := b.Refill(Sandbox, now).Take()
			if !ok {
				if wait <= 0 {
					t.Fatalf("empty bucket says wait %v", wait)
				}
				b = next
				return n
			}
			b, n = next, n+1
		}
	}
	if n := taken(); n != 10 {
		t.Errorf("burst gave %d, want 10", n)
	}
	now = now.Add(time.Second)
	if n := taken(); n != 5 {
		t.Errorf("a second gave %d, want 5", n)
	}
	now = now.Add(1000 * time.Hour)
	if n := taken(); n != 10 {
		t.Errorf("a long pause gave %d, want the burst of 10", n)
	}
	now = now.Add(-time.Hour)
	if n := taken(); n != 0 {
		t.Errorf("a clock set back gave %d, want 0", n)
	}
}

// SPEC §7: "a change of ring keeps the fraction".
func TestTogglingRingsRefillsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_000, 0)
		b := Bucket{}.Refill(Ring(rapid.IntRange(1, 3).Draw(t, "first")), now)
		for range rapid.IntRange(0, 30).Draw(t, "takes") {
			b, _, _ = b.Take()
		}
		fraction := func(b Bucket) float64 { return float64(b.Level) / float64(b.Ring.Limits().Burst) }
		before := fraction(b)
		for _, r := range rapid.SliceOf(rapid.IntRange(1, 3)).Draw(t, "rings") {
			b = b.Refill(Ring(r), now)
		}
		if fraction(b) > before {
			t.Fatalf("fraction grew from %f to %f", before, fraction(b))
		}
	})
}
