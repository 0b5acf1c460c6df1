package ring

import (
	"encoding/json"
	"math/big"
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

// SPEC §2: "ring = max(ceilings, min(by score, by elevation))".
func TestCeilingLowersAndNeverLifts(t *testing.T) {
	for _, c := range []struct {
		score    string
		elevated Ring
		ceiling  Ring
		want     Ring
	}{
		{"0.99", Sandbox, Root, Privileged}, {"0.99", Sandbox, Sandbox, Sandbox}, {"0.10", Sandbox, Privileged, Sandbox},
		{"0.70", Sandbox, Standard, Standard}, {"0.55", Standard, Root, Standard}, {"0.55", Standard, Sandbox, Sandbox},
		{"0.99", Standard, Root, Privileged}, {"0.90", Privileged, Root, Privileged}, {"0.90", Privileged, Standard, Standard},
	} {
		if got := Of(MustSigma(c.score), c.elevated, c.ceiling); got != c.want {
			t.Errorf("Of(%s, %d, %d) = %d, want %d", c.score, c.elevated, c.ceiling, got, c.want)
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

// SPEC §2 in its own words and whole numbers: "σ_eff > 0.95 → 1, > 0.60 → 2, else 3" and "ring = max(ceilings, min(by score, by
// elevation))".
func TestRingAgreesWithThePage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		near := rapid.SampledFrom([]int{0, 600_000, 950_000, 1_000_000}).Draw(t, "near")
		m := min(max(near+rapid.IntRange(-3, 3).Draw(t, "off"), 0), 1_000_000)
		want := 3
		if m*100 > 60*1_000_000 {
			want = 2
		}
		if m*100 > 95*1_000_000 {
			want = 1
		}
		elevated := rapid.IntRange(1, 3).Draw(t, "elevated")
		if elevated < want {
			want = elevated
		}
		ceiling := rapid.IntRange(0, 3).Draw(t, "ceiling")
		if want < ceiling {
			want = ceiling
		}
		if got := Of(Sigma(m), Ring(elevated), Ring(ceiling)); int(got) != want {
			t.Fatalf("Of(%d, %d, %d) = %d, want %d", m, elevated, ceiling, got, want)
		}
	})
}

// The bucket against exact fractions: it holds burst tokens, gains rate a second, keeps its fraction when the ring changes.
// Rounding gains nothing, and loses at most a millionth at each change of ring, which the largest ring makes twenty of.
func TestBucketAgreesWithExactFractions(t *testing.T) {
	table := [][2]int64{{100, 200}, {50, 100}, {20, 40}, {5, 10}}
	rapid.Check(t, func(t *rapid.T) {
		now, r := time.Unix(1_000, 0), Ring(rapid.IntRange(0, 3).Draw(t, "ring"))
		b, changes := Bucket{}.Refill(r, now), int64(0)
		exact := big.NewRat(table[r][1], 1)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.IntRange(0, 5).Draw(t, "change") == 0 {
				next := Ring(rapid.IntRange(0, 3).Draw(t, "next"))
				if next != r {
					changes++
				}
				exact.Mul(exact, big.NewRat(table[next][1], table[r][1]))
				r = next
			}
			pass := rapid.SampledFrom([]int64{0, 0, 1, 777, 50_000, 1_000_000, 3_600_000_000}).Draw(t, "µs")
			now = now.Add(time.Duration(pass) * time.Microsecond)
			exact.Add(exact, big.NewRat(pass*table[r][0], 1_000_000))
			if full := big.NewRat(table[r][1], 1); exact.Cmp(full) > 0 {
				exact = full
			}
			after, wait, ok := b.Refill(r, now).Take()
			b = after
			if ok {
				exact.Sub(exact, big.NewRat(1, 1))
			} else if next, _, there := b.Refill(r, now.Add(wait)).Take(); !there {
				t.Fatalf("after the wait of %v there is none: %+v", wait, next)
			}
			lost := new(big.Rat).Sub(exact, big.NewRat(b.Level, 1_000_000))
			if lost.Sign() < 0 || lost.Cmp(big.NewRat(20*changes, 1_000_000)) > 0 {
				t.Fatalf("%d millionths, exactly %s; lost %s in %d changes", b.Level, exact.FloatString(9), lost.FloatString(9), changes)
			}
			if !ok && exact.Cmp(big.NewRat(1_000_000+20*changes, 1_000_000)) >= 0 {
				t.Fatalf("refused with %s tokens", exact.FloatString(9))
			}
		}
	})
}
