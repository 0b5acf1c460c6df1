package document

import (
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

func TestWhatDoesNotDecodeIsSaidInTheTextsOwnWords(t *testing.T) {
	type inner struct {
		Session string `json:"session"`
	}
	type outer struct {
		Name     string            `json:"name"`
		Most     int               `json:"max_participants"`
		Audit    *bool             `json:"audit"`
		Allow    []string          `json:"network_allow"`
		Receipts []inner           `json:"receipts"`
		Headers  map[string]string `json:"headers"`
		Weight   float64           `json:"weight"`
		Until    *time.Time        `json:"until"`
	}
	for text, want := range map[string]string{
		``:                        "it is empty",
		`{"name":`:                "it breaks off after 8 bytes",
		`{"name":"a"} x`:          "no JSON after 13 bytes: invalid character 'x' after top-level value",
		`{"name":"a","name":"b"}`: `"name" is said twice`,
		`{"receipts":[{"session":"a","session":"b"}]}`: `receipts[0]: "session" is said twice`,
		`[]`:                            "want an object, got a list",
		`{"max_participants":"5"}`:      `max_participants: want a whole number, got a text`,
		`{"max_participants":5.5}`:      "max_participants: want a whole number, got 5.5",
		`{"max_participants":9e99}`:     "max_participants: want a whole number, got 9e99",
		`{"audit":"no"}`:                `audit: want true or false, got a text`,
		`{"network_allow":"x"}`:         `network_allow: want a list, got a text`,
		`{"network_allow":["x",5]}`:     "network_allow[1]: want a text, got a number",
		`{"receipts":[{"session":5}]}`:  "receipts[0].session: want a text, got a number",
		`{"receipts":[{"sesion":"x"}]}`: `receipts[0]: unknown field "sesion" (did you mean "session"?)`,
		`{"headers":{"a":{}}}`:          "headers.a: want a text, got an object",
		`{"weight":"1"}`:                `weight: want a number, got a text`,
		`{"until":"tomorrow"}`:          "until: want a time such as 2026-01-02T15:04:05Z, got a text",
		`{"until":5}`:                   "until: want a time such as 2026-01-02T15:04:05Z, got ",
		`{"Name":"x"}`:                  `unknown field "Name" (did you mean "name"?)`,
		`{"zzzzzzzzzzzz":1}`:            `unknown field "zzzzzzzzzzzz"; there are audit, headers, max_participants, name, network_allow, receipts, until, weight`,
		"{\"name\":\"\xff\"}":           "name: no JSON after 9 bytes: invalid UTF-8",
	} {
		var v outer
		err := json.Unmarshal([]byte(text), &v, json.RejectUnknownMembers(true))
		if err == nil {
			t.Errorf("%s decodes", text)
			continue
		}
		if got := DecodeFault(err); !strings.HasPrefix(got, want) || strings.Contains(got, "document.") {
			t.Errorf("%s: %s\nwant %s", text, got, want)
		}
	}
	var long outer
	err := json.Unmarshal([]byte(`{"headers":{"`+strings.Repeat("x", 9000)+`":1}}`), &long)
	if got := DecodeFault(err); len(got) > 300 {
		t.Errorf("a long name is repeated whole: %d bytes", len(got))
	}
}
