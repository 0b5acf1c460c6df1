package httpapi

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
)

func TestAnActionIsToldWithAllThatIsKnownOfIt(t *testing.T) {
	var v hypervisor.ActionView
	fields := reflect.ValueOf(&v).Elem()
	for i := range fields.NumField() {
		switch f := fields.Field(i); f.Interface().(type) {
		case json.RawMessage:
			f.SetBytes([]byte(`{}`))
		case time.Time:
			f.Set(reflect.ValueOf(time.Unix(1, 0)))
		case *time.Time:
			f.Set(reflect.ValueOf(new(time.Time)))
		default:
			switch f.Kind() {
			case reflect.String:
				f.SetString("x")
			case reflect.Bool:
				f.SetBool(true)
			case reflect.Uint8, reflect.Uint32, reflect.Uint64:
				f.SetUint(1)
			}
		}
	}
	members := func(of any) []string {
		text, err := json.Marshal(of)
		var out map[string]json.RawMessage
		if err == nil {
			err = json.Unmarshal(text, &out)
		}
		if err != nil {
			t.Fatal(err)
		}
		return slices.Sorted(maps.Keys(out))
	}
	if known, told := members(v), members(actionView(v)); !slices.Equal(known, told) {
		t.Errorf("known is %v, told is %v", known, told)
	}
}
