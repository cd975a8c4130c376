package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// ansibleSite is a house whose router Ansible reaches by ssh, from the Internet and at the address of its second line.
type ansibleSite struct {
	*house
	wants string // configuration that it is to get
}

// newAnsibleSite has a daemon run by /etc/uplinkd/uplinkd.toml, and sshd, which takes the key in dir.
func newAnsibleSite(t *testing.T, dir string) *ansibleSite {
	t.Helper()
	s := &ansibleSite{house: newHouse(t, besideScene{})}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(s.dir, "bin")
	s.in(fmt.Sprintf(`
mkdir -p %[1]s /etc/uplinkd /run/sshd
cp %[2]s /etc/uplinkd/uplinkd.toml
printf '#!/bin/sh\nexec env %[3]s=1 %[4]s "$@"\n' >%[1]s/uplinkd
printf '#!/bin/sh\nexec ip netns exec %[5]s ssh "$@"\n' >%[1]s/ssh
chmod 755 %[1]s/*
ssh-keygen -q -t ed25519 -N '' -f %[6]s/hostkey
cat >%[6]s/sshd_config <<X
ListenAddress 0.0.0.0
HostKey %[6]s/hostkey
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
AuthorizedKeysFile %[7]s/key.pub
Subsystem sftp internal-sftp
SetEnv PATH=%[1]s:/usr/sbin:/usr/bin:/sbin:/bin
X`, bin, s.config, actAsProgram, self, s.Host("inet").Namespace(), s.dir, dir))
	s.wants = s.file()
	s.serve("/usr/sbin/sshd", "-D", "-e", "-f", s.dir+"/sshd_config")
	s.launch("-c", "/etc/uplinkd/uplinkd.toml")
	s.await("the daemon to converge", s.converged)
	s.awaitBy("lan", other4, "fiber")
	s.awaitState("lte", uplink.Up)
	return s
}

// file is the configuration as it stands on the router.
func (s *ansibleSite) file() string {
	s.Helper()
	text, err := os.ReadFile("/proc/" + s.mounts + "/root/etc/uplinkd/uplinkd.toml")
	if err != nil {
		s.Fatal(err)
	}
	return string(text)
}

// wantInForce checks that a configuration is in force, and nothing waits.
func (s *ansibleSite) wantInForce(what, config string, lteTier int) {
	s.Helper()
	if got := s.file(); got != config {
		s.Errorf("%s: the file is\n%s", what, got)
	}
	st := s.status()
	if len(st.Uplinks) != 2 || st.Uplinks[1].Tier != lteTier || st.Config.Error != "" || !st.Config.ConfirmUntil.IsZero() {
		s.Errorf("%s: %+v, %+v", what, st.Config, st.Uplinks)
	}
}

// TestAnsibleChangesSiteBySite has the real Ansible roll changes out to two sites, with the role and the play of packaging/ansible:
// one that is good, one that cuts off whoever makes it, one that cuts off the LAN, and a mistake.
func TestAnsibleChangesSiteBySite(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "uplinkd-ansible-") // ssh's control sockets need short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/key").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sites := []*ansibleSite{newAnsibleSite(t, dir), newAnsibleSite(t, dir)}
	roles, err := filepath.Abs("../../packaging/ansible/roles")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The role alone, without what needs systemd and packages; the rest is that of rollout.yml.
	play, err := os.ReadFile("../../packaging/ansible/rollout.yml")
	if err != nil {
		t.Fatal(err)
	}
	head, _, found := strings.Cut(string(play), "  become: true\n")
	if !found {
		t.Fatalf("%s", play)
	}
	write("rollout.yml", head+`  gather_facts: false
  tasks:
    - name: Configure
      ansible.builtin.import_role:
        name: uplinkd
        tasks_from: configure
      vars:
        uplinkd_config: "{{ lookup('ansible.builtin.file', inventory_hostname ~ '.toml', rstrip=false) }}"
        uplinkd_confirm: 40
        uplinkd_settle: 6
        uplinkd_checks: ["ip netns exec {{ lan }} ping -c 1 -W 2 192.0.2.1"]
`)
	inventory := "[routers]\n"
	for i, s := range sites {
		inventory += fmt.Sprintf("site%[1]d ansible_host=203.0.113.2 ansible_ssh_executable=%[2]s/bin/ssh ansible_control_path=%[2]s/master ansible_remote_tmp=%[2]s/remote ansible_async_dir=%[2]s/async lan=%[3]s\n", i, s.dir, s.Host("lan").Namespace())
	}
	inventory += "[routers:vars]\nansible_user=root\nansible_python_interpreter=/usr/bin/python3\nansible_ssh_private_key_file=" + dir + "/key\n"
	write("inventory", inventory)
	rollOut := func(change func(config string) string, options ...string) (string, error) {
		t.Helper()
		for i, s := range sites {
			s.wants = change(s.file())
			write(fmt.Sprintf("site%d.toml", i), s.wants)
		}
		cmd := exec.Command("timeout", append([]string{"300", "ansible-playbook", "-i", "inventory", "rollout.yml"}, options...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir, "ANSIBLE_ROLES_PATH="+roles, "ANSIBLE_HOST_KEY_CHECKING=false", "ANSIBLE_NOCOLOR=1", "ANSIBLE_LOCALHOST_WARNING=false",
			"ANSIBLE_SSH_ARGS=-o ControlMaster=auto -o ControlPersist=5s -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	later := func(config string) string { return strings.Replace(config, "tier = 2", "tier = 7", 1) }
	before := sites[0].file()
	if out, err := rollOut(later, "--check", "--diff"); err != nil || strings.Count(out, "+tier = 7") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
	sites[0].wantInForce("after --check", before, 2)
	out, err := rollOut(later)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for i, s := range sites {
		s.wantInForce(fmt.Sprintf("site %d after the change", i), s.wants, 7)
		if all := s.events(status.EventReload); len(all) != 2 || !strings.Contains(all[1].Message, "is confirmed") {
			t.Errorf("%+v", all)
		}
	}
	if strings.Index(out, "Confirm") > strings.LastIndex(out, "Write the configuration") {
		t.Errorf("the second site was not behind the first:\n%s", out)
	}
	if out, err = rollOut(func(config string) string { return config }); err != nil || strings.Contains(out, "changed=1") || len(sites[0].events(status.EventReload)) != 2 {
		t.Errorf("nothing is to be changed: %v\n%s", err, out)
	}
	former := sites[0].file()
	for what, step := range map[string]struct {
		change func(string) string
		says   string
	}{
		// What comes to the second line's address is answered by the first one then, which its provider refuses.
		"the line that Ansible comes by is gone": {func(config string) string {
			before, _, _ := strings.Cut(config, "[[uplink]]\nname = \"lte\"")
			return before
		}, "the change was taken back: Connect anew"},
		"the LAN is cut off": {func(config string) string { return config + cutOff }, "the change was taken back: Check from here"},
		"a section that needs a restart": {func(config string) string {
			return strings.Replace(config, "[kernel]\n", "[kernel]\nrule_priority = 20000\n", 1)
		}, "need a restart"},
		"a mistake": {func(config string) string { return config + "[[uplink]]\nnmae = 1\n" }, "nmae"},
	} {
		others := len(sites[1].events(status.EventReload))
		out, err := rollOut(step.change)
		if err == nil || !strings.Contains(out, step.says) {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
		sites[0].wantInForce(what, former, 7)
		sites[0].awaitBy("lan", other4, "fiber")
		sites[1].wantInForce(what+", at the other site", sites[1].file(), 7)
		if n := len(sites[1].events(status.EventReload)); n != others {
			t.Errorf("%s: the other site was changed\n%s", what, out)
		}
	}
}
