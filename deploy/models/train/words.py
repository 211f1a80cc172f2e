# SPDX-License-Identifier: Apache-2.0
"""The words a story is made of. Everything here was written for this project."""

GIRL_NAMES = ("Lily Mia Ruby Nora Ella Pippa Hazel Tess Wren Ivy "
              "Luna Dora Anna Cleo Fern Bella Maya Zoe Rosa Juno").split()
BOY_NAMES = ("Tom Max Ben Milo Oscar Finn Leo Toby Sam Hugo "
             "Rufus Otto Jack Pip Theo Ned Gus Felix Bruno Casper").split()

ANIMALS = ("fox rabbit bear mouse owl cat dog duck frog hedgehog "
           "squirrel badger turtle goat pig lamb otter deer crow mole").split()
CHILDREN = ["girl", "boy"]

# How each kind of friend gets a toy out of a tree; any other kind uses a stick or a stone.
RESCUE_BY_KIND = {
    **dict.fromkeys(["owl", "crow", "duck"],
                    "flew up and took it in {friend.his} [beak|feet]"),
    **dict.fromkeys(["cat", "squirrel", "mouse"],
                    "climbed up, step by step, and pushed it down"),
    **dict.fromkeys(["bear", "goat", "deer"], "shook the tree until it fell"),
}
RESCUE_BY_ANYONE = "[threw a small stone and hit it|held a long stick and pulled it down]"

TRAITS = ("kind brave shy curious clever lazy proud cheerful gentle quiet funny careful").split()
SIZES = "little small young tiny".split()

# Few toys and few colors, each said often in a story: a model of this size forgets them otherwise.
TOYS = "lantern kite ball drum boat bell hat doll".split()
COLORS = "red blue green yellow white golden".split()

# (name, preposition, something there that one can look behind or under)
PLACES = [
    ("forest", "in", "tree"), ("garden", "in", "bench"), ("meadow", "in", "bush"),
    ("river", "by", "rock"), ("pond", "by", "log"), ("hill", "on", "stone"),
    ("barn", "in", "ladder"), ("beach", "on", "shell"), ("village", "in", "cart"),
    ("farm", "on", "fence"), ("market", "in", "table"), ("park", "in", "swing"),
    ("cave", "in", "rock"), ("orchard", "in", "apple tree"), ("mill", "by", "wheel"),
]

# (name, with its article)
FOODS = [
    ("bread", "some bread"), ("soup", "some soup"), ("cake", "a cake"), ("pie", "a pie"),
    ("apple", "an apple"), ("pear", "a pear"), ("cheese", "some cheese"),
    ("honey", "some honey"), ("berries", "some berries"), ("nuts", "some nuts"),
    ("cookies", "some cookies"), ("carrots", "some carrots"),
]

TOOLS = ["some glue", "a needle and thread", "a hammer", "a long rope", "a piece of wood",
         "a ribbon"]

# (word, a line that shows it)
WEATHER = [
    ("sunny", "The sun was [warm|bright|high in the sky]."),
    ("windy", "The wind was [strong|loud|blowing hard]."),
    ("rainy", "The rain fell [softly|all morning|on the roof]."),
    ("snowy", "Snow lay on the [ground|roofs|trees]."),
    ("foggy", "A [thick|gray] fog hid the [road|trees]."),
    ("warm", "The air smelled of [flowers|grass|summer]."),
    ("cold", "There was ice on the [grass|window|road]."),
]

# (seed, what it grows into)
SEEDS = [
    ("sunflower", "a tall sunflower"), ("pumpkin", "a big orange pumpkin"),
    ("bean", "a long green bean plant"), ("rose", "a sweet red rose"),
    ("carrot", "a fat orange carrot"), ("apple", "a small apple tree"),
]

SECRETS = ["an old map", "a baby bird", "a music box", "a letter", "a gold coin",
           "a sleeping kitten", "a pair of tiny shoes", "a shiny stone"]

# (what one can learn, where it is then done)
SKILLS = [
    ("swim", "in the water"), ("ride a bike", "on the road"), ("climb", "up the tall tree"),
    ("dance", "on the floor"), ("sing", "in front of everyone"), ("jump", "over the log"),
    ("bake", "in the kitchen"), ("paint", "on the wall"),
]

# (what was heard, what made it)
NOISES = [
    ("a scratch", "a branch on the window"), ("a bump", "a ball that fell off the shelf"),
    ("a squeak", "a very small mouse"), ("a whisper", "the wind in the trees"),
    ("a tap", "the rain on the roof"), ("a growl", "an empty tummy"),
]

PARENTS = ["mother", "father", "grandmother", "grandfather"]
HOUSES = ["small", "warm", "tiny", "round", "cozy", "wooden"]
NUMBERS = ["two", "three", "four", "five"]
