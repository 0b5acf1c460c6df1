package document

import (
	"errors"
	"testing"
	"time"
)

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"7d": 7 * Day, "24h": Day, "90d": 90 * Day, "1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute, "0": 0, "0d": 0, "1.5h": 90 * time.Minute, "-1h": -time.Hour} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "7", "7 d", "-7d", "1.5d", "1d-2h", "1d+2h", "1d1d", "12h1d", "65536d", "9999999h9999999h", "1w"} {
		if got, err := ParseDuration(text); !errors.Is(err, ErrDuration) {
			t.Errorf("ParseDuration(%q) = %v, %v", text, got, err)
		}
	}
}
